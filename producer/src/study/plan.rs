//! From a study and a dataset's manifest to jobs, every one of them checked.

use rand::Rng as _;
use serde_json::Value;
use shared::contract::{
    Dataset, Evaluate, Job, JobResult, MAX_MESSAGE, Network, Objective, Status, Training, Trial, TrialData, Work,
};
use shared::names::{JobId, Name, ObjectRef};
use shared::random;
use shared::strict::{self, Problem};

use super::file::Validation;
use super::space::Point;
use super::template::{self, Scope};
use super::{Study, StudyError};

impl Study {
    /// The study's trials on `dataset`, as jobs of `run`: `t0000`, `t0001`, … in the sampler's order.
    ///
    /// # Errors
    /// The first thing that does not fit: rows, a reference to a parameter that does not exist at a
    /// point, a layer that does not fit its input, a number out of range. Nothing is left to a worker.
    pub fn trials(&self, dataset: &Dataset, dataset_ref: &ObjectRef, run: &Name) -> Result<Vec<Job>, StudyError> {
        self.plan(dataset, dataset_ref, run).map_err(|problem| StudyError::Wrong { file: self.file.clone(), problem })
    }

    fn plan(&self, dataset: &Dataset, dataset_ref: &ObjectRef, run: &Name) -> Result<Vec<Job>, Problem> {
        let data = self.data(dataset, dataset_ref)?;
        let points = self.sampler.points(&self.space, self.seed)?;
        let jobs = points.into_iter().zip(0u32..).map(|(point, index)| {
            self.job(dataset, &data, run, index, point.clone()).map_err(|problem| at(problem, &point))
        });
        jobs.collect()
    }

    fn data(&self, dataset: &Dataset, dataset_ref: &ObjectRef) -> Result<TrialData, Problem> {
        let validation_rows = match self.validation {
            Validation::Rows(rows) => rows,
            Validation::Fraction(share) => ((f64::from(dataset.train()?.rows) * share).round() as u32).max(1),
        };
        let data = TrialData {
            dataset: dataset_ref.clone(),
            validation_rows,
            train_rows: self.train_rows,
            split_seed: self.seed,
            image: self.image.clone(),
        };
        // Before any point is looked at: what is wrong here is no trial's. The file has a name of its own for it.
        data.fits(dataset).map(|_| data).map_err(|problem| match problem.at.as_str() {
            "validation_rows" => Problem { at: "data.validation".into(), ..problem },
            _ => problem.inside("data"),
        })
    }

    /// Checks every point of the search as far as that goes without the dataset: so that a study is
    /// refused for what stands in it before anybody looks for its data.
    ///
    /// # Errors
    /// The first thing that is wrong, by its key.
    pub fn check(&self) -> Result<(), StudyError> {
        /// Stands for the dataset's classes, which are not known yet.
        const SOME_CLASSES: u32 = 2;
        let checked = self.sampler.points(&self.space, self.seed).and_then(|points| {
            points
                .iter()
                .try_for_each(|point| self.parts(point, SOME_CLASSES).map(|_| ()).map_err(|problem| at(problem, point)))
        });
        checked.map_err(|problem| StudyError::Wrong { file: self.file.clone(), problem })
    }

    /// The network and the training of one point.
    fn parts(&self, point: &Point, classes: u32) -> Result<(Network, Training), Problem> {
        let scope = Scope { space: &self.space, point, classes };
        let network = read(&template::render(&self.network, "network", &scope)?, "network")?;
        let training = template::render(&self.training, "training", &scope)?;
        let training = Training { objective: self.objective, ..read(&training, "training")? };
        training.check()?;
        Ok((network, training))
    }

    fn job(&self, dataset: &Dataset, data: &TrialData, run: &Name, index: u32, point: Point) -> Result<Job, Problem> {
        let (network, training) = self.parts(&point, dataset.classes)?;
        let trial = Trial {
            network,
            data: data.clone(),
            training,
            seed: random::stream(self.seed, &["seed".into(), index.into()]).next_u32(),
            parameters: point,
            evaluate: None,
        };
        trial.fits(dataset)?;
        let id = JobId::new(format!("t{index:04}")).expect("a letter and digits");
        let job = Job { id, run: run.clone(), work: Work::Trial(Box::new(trial)) };
        job.check()?;
        let size = serde_json::to_vec(&job).map_or(usize::MAX, |body| body.len());
        if size > MAX_MESSAGE {
            let accepted = format!("a trial of at most {MAX_MESSAGE} is accepted");
            return Err(Problem::new("network", format!("{size} bytes of description"), accepted));
        }
        Ok(job)
    }
}

/// The job that measures a trained network on the test split: `test-` and the id of `winner`. `None`
/// where `winner` is no trial, or its id leaves no room.
pub fn test_job(winner: &Job, checkpoint: ObjectRef) -> Option<Job> {
    let Work::Trial(trial) = &winner.work else { return None };
    let id = JobId::new(format!("test-{}", winner.id)).ok()?;
    let trial = Trial { evaluate: Some(Evaluate { checkpoint }), ..Trial::clone(trial) };
    Some(Job { id, run: winner.run.clone(), work: Work::Trial(Box::new(trial)) })
}

/// Whether a job of a study's run is no trial but [the test](test_job) of one.
pub fn is_test(id: &JobId) -> bool {
    id.as_str().starts_with("test-")
}

/// The position of the trial that is best by its own objective; the first of equals. Jobs that only
/// evaluate, failed ones and those without a finite objective do not take part.
pub fn winner(trials: &[(Job, Option<JobResult>)]) -> Option<usize> {
    let objective = |(job, result): &(Job, Option<JobResult>)| {
        let Work::Trial(trial) = &job.work else { return None };
        let result = result.as_ref().filter(|result| result.status == Status::Done && trial.evaluate.is_none())?;
        let metrics = result.trial()?.validation?;
        let value = match trial.training.objective {
            Objective::ValidationError => metrics.error,
            Objective::ValidationLoss => metrics.loss,
        };
        value.is_finite().then_some(value)
    };
    let measured = trials.iter().enumerate().filter_map(|(index, pair)| Some((index, objective(pair)?)));
    measured.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(index, _)| index)
}

fn read<T: serde::de::DeserializeOwned>(value: &Value, at: &str) -> Result<T, Problem> {
    strict::from_value(value).map_err(|problem| problem.inside(at))
}

/// The same problem, with the trial it was met in.
fn at(problem: Problem, point: &Point) -> Problem {
    if point.is_empty() {
        return problem;
    }
    let values: Vec<String> = point.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    Problem { what: format!("{} (in the trial {})", problem.what, values.join(", ")), ..problem }
}
