//! Study files: what they give, and what wrong ones get.

use producer::study::{Study, test_job};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::contract::{Dataset, ElementType, Filter, Job, MeanStd, Optimizer, Resize, Split, Trial, Work};
use shared::digest::Digest;
use shared::names::{Key, Name, ObjectRef};

const HEAD: &str = r#"
name = "s"
seed = 1
[data]
dataset = "d"
validation = 100
"#;

const BODY: &str = r#"
[training]
epochs = 1
batch_size = 10
optimizer = { type = "sgd", learning_rate = "$rate" }
[[network.layers]]
type = "flatten"
[[network.layers]]
type = "linear"
units = "$classes"
"#;

fn object(key: &str) -> ObjectRef {
    ObjectRef { key: Key::new(key).expect("a key"), sha256: Digest::of(b"") }
}

fn digits() -> Dataset {
    Dataset {
        name: Name::new("mnist").expect("a name"),
        shape: vec![1, 28, 28],
        elements: ElementType::U8,
        classes: 10,
        labels: Vec::new(),
        mean: vec![0.13],
        std: vec![0.3],
        luma: None,
        splits: [("train".to_owned(), Split { object: object("train"), rows: 60_000 })].into(),
    }
}

/// A folder of pictures.
fn photos() -> Dataset {
    Dataset {
        name: Name::new("photos").expect("a name"),
        shape: Vec::new(),
        elements: ElementType::Encoded,
        classes: 3,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
        luma: Some(MeanStd { mean: 0.45, std: 0.2 }),
        splits: [("train".to_owned(), Split { object: object("train"), rows: 900 })].into(),
        ..digits()
    }
}

fn study(search: &str, space: &str) -> Study {
    Study::parse(&format!("{HEAD}{search}\n[space]\n{space}\n{BODY}"), "s.toml").expect("a good study")
}

fn jobs(study: &Study) -> Vec<Job> {
    study.trials(&digits(), &object("datasets/d"), &study.name).expect("good trials")
}

fn trial(job: &Job) -> &Trial {
    let Work::Trial(trial) = &job.work else { panic!("a study has trials only") };
    trial
}

fn points(study: &Study) -> Vec<Value> {
    jobs(study).iter().map(|job| Value::Object(trial(job).parameters.clone())).collect()
}

/// A study that is only sampled: `names` stand where no plan would accept them.
fn sampled(search: &str, space: &str, names: &[&str]) -> Study {
    let uses: Vec<String> = names.iter().map(|name| format!("\"${name}\"")).collect();
    let body = BODY.replace("epochs = 1", &format!("epochs = [{}]", uses.join(", ")));
    Study::parse(&format!("{HEAD}{search}\n[space]\n{space}\n{body}"), "s.toml").expect("a good study")
}

fn sample(study: &Study) -> Vec<Value> {
    study.sampler.points(&study.space, study.seed).expect("points").into_iter().map(Value::Object).collect()
}

/// What the study in `text` is refused with, on the digits.
fn refusal(text: &str) -> String {
    let planned = Study::parse(text, "s.toml").and_then(|study| study.trials(&digits(), &object("d"), &study.name));
    planned.expect_err("a wrong study").to_string()
}

#[test]
fn the_reference_study_has_its_twelve_trials_in_order() {
    let text = std::fs::read_to_string("../examples/digits.toml").expect("the example");
    let study = Study::parse(&text, "digits.toml").expect("a good study");
    let jobs = jobs(&study);
    // By hand: 10^(-3 + 2k/3), to six digits.
    let rates = [0.001, 0.004_641_59, 0.021_544_3, 0.1];
    let expected: Vec<Value> = [128, 256, 512]
        .iter()
        .flat_map(|hidden| rates.iter().map(move |rate| json!({"hidden": hidden, "learning_rate": rate})))
        .collect();
    assert_eq!(points(&study), expected);
    assert_eq!(jobs[0].id.as_str(), "t0000");
    assert_eq!(jobs[11].id.as_str(), "t0011");
    let last = trial(&jobs[11]);
    assert_eq!(last.training.optimizer, Optimizer::Momentum { learning_rate: 0.1, momentum: 0.9 });
    assert_eq!(last.network.output_shape(&[1, 28, 28]), Ok(vec![10]));
    assert_eq!((last.data.validation_rows, last.data.train_rows, last.data.split_seed), (10_000, None, 1));
    let parameters = last.network.parameters(&[1, 28, 28]).expect("a good network");
    let shapes: Vec<&[usize]> = parameters.iter().map(|parameter| parameter.shape.as_slice()).collect();
    let by_hand: [&[usize]; 8] =
        [&[32, 1, 5, 5], &[32], &[64, 32, 5, 5], &[64], &[512, 3136], &[512], &[10, 512], &[10]];
    assert_eq!(shapes, by_hand);
}

#[test]
fn every_example_is_planned() {
    let mut planned = Vec::new();
    for entry in std::fs::read_dir("../examples").expect("the examples") {
        let path = entry.expect("an entry").path();
        let study = Study::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let dataset = if study.dataset.as_str() == "photos" { photos() } else { digits() };
        let jobs = study.trials(&dataset, &object("d"), &study.name).unwrap_or_else(|error| panic!("{error}"));
        for job in &jobs {
            let body = serde_json::to_vec(job).expect("plain data");
            assert_eq!(&Job::parse(&body).expect("a valid message"), job);
        }
        planned.push((path.file_stem().expect("a name").to_string_lossy().into_owned(), jobs.len()));
    }
    planned.sort();
    assert_eq!(planned, [("digits".into(), 12), ("mlp".into(), 20), ("pictures".into(), 8), ("resnet".into(), 6)]);
}

#[test]
fn random_points_are_what_their_streams_say() {
    let search = "[search]\nsampler = \"random\"\ntrials = 3";
    let space = r#"
rate = { log = [1e-3, 1e-1] }
x = { choice = ["a", "b", "c"], when = { n = [1, 2, 3] } }
n = { int = [1, 6] }
f = { float = [-1, 3] }
"#;
    // From an implementation of SHA-256, ChaCha8 and the formulas in another language.
    let expected = [
        json!({"rate": 0.098_108_2, "n": 5, "f": 0.955_334}),
        json!({"rate": 0.003_272_39, "n": 6, "f": 2.472_969}),
        json!({"rate": 0.009_143_72, "n": 1, "f": 2.090_633, "x": "b"}),
    ];
    let study = sampled(search, space, &["x", "n", "f"]);
    assert_eq!(sample(&study), expected);
    let seeds: Vec<u32> =
        jobs(&self::study(search, "rate = { log = [1e-3, 1e-1] }")).iter().map(|job| trial(job).seed).collect();
    assert_eq!(seeds, [3_930_068_310, 3_947_707_179, 972_478_408]);
}

#[test]
fn a_parameter_with_a_condition_adds_no_points_where_it_does_not_exist() {
    let study = study(
        "",
        r#"
rate = { float = [0.0, 1.0], steps = 3, when = { kind = "a" }, default = 0.25 }
kind = { choice = ["a", "b"] }
"#,
    );
    let expected = [
        json!({"kind": "a", "rate": 0.0}),
        json!({"kind": "a", "rate": 0.5}),
        json!({"kind": "a", "rate": 1.0}),
        json!({"kind": "b"}),
    ];
    assert_eq!(sample(&study), expected);
    assert_eq!(
        points(&self::study("[search]\ntrials = 2", "rate = { int = [1, 100] }")),
        [json!({"rate": 1}), json!({"rate": 2})]
    );
}

#[test]
fn choices_hold_tables_with_parameters_of_their_own() {
    let text = format!(
        "{HEAD}[space]\nrate = {{ log = [1e-3, 1e-1], steps = 2 }}\n[space.optimizer]\nchoice = [{{ type = \"adam\", learning_rate = \"$rate\" }}, {{ type = \"sgd\", learning_rate = 0.5 }}]\n{}",
        BODY.replace("{ type = \"sgd\", learning_rate = \"$rate\" }", "\"$optimizer\"")
    );
    let jobs = jobs(&Study::parse(&text, "s.toml").expect("a good study"));
    let rates: Vec<f64> = jobs.iter().map(|job| trial(job).training.optimizer.learning_rate()).collect();
    assert_eq!(rates, [0.001, 0.5, 0.1, 0.5]);
}

#[test]
fn a_share_of_the_rows_is_held_out() {
    let text =
        format!("{HEAD}[space]\nrate = {{ choice = [0.1] }}\n{BODY}").replace("validation = 100", "validation = 0.25");
    let jobs = jobs(&Study::parse(&text, "s.toml").expect("a good study"));
    assert_eq!(trial(&jobs[0]).data.validation_rows, 15_000);
}

#[test]
fn pictures_become_what_the_study_says() {
    let text = |image: &str| {
        let data = HEAD.replace("validation = 100", &format!("validation = 100\n{image}"));
        format!("{data}[space]\nrate = {{ choice = [0.1] }}\n{BODY}")
    };
    let plan = |image: &str, dataset: &Dataset| {
        let study = Study::parse(&text(image), "s.toml").map_err(|error| error.to_string())?;
        study.trials(dataset, &object("d"), &study.name).map_err(|error| error.to_string())
    };
    let jobs = plan("image = { size = [4, 5], resize = { shortest_edge = 6 } }", &photos()).expect("a good study");
    let trial = trial(&jobs[0]);
    let image = trial.data.image.clone().expect("it travels");
    assert_eq!(
        (image.shape(), image.resize, image.filter),
        (vec![3, 4, 5], Some(Resize::ShortestEdge(6)), Filter::Bilinear)
    );
    assert_eq!(trial.network.parameters(&image.shape()).expect("shapes")[0].shape, [3, 60], "$classes, and the input");
    let grey = photos().preprocessing(
        plan("image = { size = 8, channels = 1 }", &photos())
            .map(|jobs| self::trial(&jobs[0]).data.image.clone())
            .expect("good")
            .as_ref(),
    );
    assert_eq!((grey.mean, grey.std, grey.resize), (vec![0.45], vec![0.2], None));

    let cases = [
        (
            "",
            photos(),
            "`data.image` is missing: `photos` holds pictures of any size: `image = { size = 64 }`, for example, says what they become",
        ),
        (
            "image = { size = 8 }",
            digits(),
            "`data.image` is there: the examples of `mnist` have the shape [1, 28, 28] already; only folders of pictures take it: remove it",
        ),
        (
            "image = { size = 8, resize = \"exact\" }",
            photos(),
            "`data.image.resize` is \"exact\": `{ shortest_edge = 72 }` and `{ exact = [72, 72] }`, for example, are accepted; without it pictures are resized straight to `size`",
        ),
        (
            "image = { size = 0 }",
            photos(),
            "`data.image.size` is [0, 0]: 1 to 16384 pixels, or [height, width], of at most 67108864 in all, are accepted",
        ),
        (
            "image = { side = 8 }",
            photos(),
            "`data.image.side` is wrong: unknown field `side`, expected one of `size`, `channels`, `resize`, `filter`; did you mean `size`?",
        ),
        ("image = { size = \"big\" }", photos(), "`data.image.size` is wrong: a number, or [height, width]"),
    ];
    for (image, dataset, expected) in cases {
        assert_eq!(plan(image, &dataset).expect_err(expected), format!("s.toml: {expected}"));
    }
}

#[test]
fn the_test_job_measures_the_winner_and_changes_nothing_else() {
    let study = study("", "rate = { choice = [0.1] }");
    let winner = jobs(&study).remove(0);
    let job = test_job(&winner, object("checkpoint")).expect("a trial");
    assert_eq!(job.id.as_str(), "test-t0000");
    assert_eq!(trial(&job).evaluate.as_ref().map(|e| &e.checkpoint), Some(&object("checkpoint")));
    assert_eq!(Trial { evaluate: None, ..trial(&job).clone() }, *trial(&winner));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let with = |search: &str, space: &str| format!("{HEAD}{search}\n[space]\n{space}\n{BODY}");
    let rate = "rate = { choice = [0.1] }";
    let changed = |from: &str, to: &str| {
        let text = with("", rate);
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let cases = [
        ("name = \n".to_owned(), "s.toml: is not TOML: TOML parse error at line 1, column 8"),
        (
            changed("epochs", "epoch"),
            "`training.epoch` is wrong: unknown field `epoch`, expected one of `epochs`, `batch_size`, `optimizer`, `schedule`, `weight_decay`, `early_stop`, `objective`; did you mean `epochs`? (in the trial rate = 0.1)",
        ),
        (
            changed("dataset = ", "datasets = "),
            "`data.datasets` is wrong: unknown field `datasets`, expected one of `dataset`, `validation`, `train_rows`, `image`; did you mean `dataset`?",
        ),
        (
            changed("epochs = 1", "epochs = \"one\""),
            "`training.epochs` is the text \"one\": a whole number from 0 to 4294967295 is accepted (in the trial rate = 0.1)",
        ),
        (
            changed("epochs = 1", "epochs = 0"),
            "`training.epochs` is 0: 1 to 100000 is accepted (in the trial rate = 0.1)",
        ),
        (
            changed("epochs = 1", "epochs = inf"),
            "`training.epochs` is not a finite number: texts, finite numbers, flags, lists and tables are accepted",
        ),
        (
            changed("epochs = 1", "epochs = 2020-01-01"),
            "`training.epochs` is a date: texts, finite numbers, flags, lists and tables are accepted",
        ),
        (
            changed("\"$rate\"", "\"$raet\""),
            "`training.optimizer.learning_rate` is \"$raet\": the study's parameters are `rate`, `classes`; did you mean \"$rate\"?",
        ),
        (
            changed("\"$rate\"", "0.1"),
            "`space.rate` is used nowhere: write \"$rate\" where its value belongs, or remove it",
        ),
        (
            changed("choice = [0.1]", "choice = [-1]"),
            "`training.optimizer.learning_rate` is -1: a number above 0, at most 1e6, is accepted (in the trial rate = -1)",
        ),
        (
            changed("choice = [0.1]", "choice = [\"x\"]"),
            "`training.optimizer.learning_rate` is the text \"x\": a number is accepted (in the trial rate = \"x\")",
        ),
        (
            changed("choice = [0.1]", "choise = [0.1]"),
            "`space.rate.choise` is wrong: unknown field `choise`, expected one of `choice`, `int`, `float`, `log`, `step`, `steps`, `when`, `default`; did you mean `choice`?",
        ),
        (changed("choice = [0.1]", "choice = []"), "`space.rate.choice` is []: one value or more is accepted"),
        (
            changed("choice = [0.1]", "choice = [1, 1.0]"),
            "`space.rate.choice[1]` is 1.0: it stands there twice; once is accepted",
        ),
        (changed("choice = [0.1]", "int = [3, 1]"), "`space.rate.int` is [3, 1]: the smaller number comes first"),
        (
            changed("choice = [0.1]", "log = [0, 1], steps = 2"),
            "`space.rate.log` is [0, 1]: numbers above 0, the smaller one first, are accepted",
        ),
        (
            changed("choice = [0.1]", "log = [0.1, 1]"),
            "`space.rate` is log [0.1, 1] without `steps`: a grid needs a number of points, as in `steps = 4` (or use `sampler = \"random\"`)",
        ),
        (
            changed("choice = [0.1]", "float = [0.1, 1], step = 2"),
            "`space.rate.step` is 2: 1 or more is accepted, and only beside `int`",
        ),
        (
            changed("choice = [0.1]", "float = [0.1, 1], int = [1, 2]"),
            "`space.rate` is int and float: exactly one of `choice`, `int`, `float` and `log` is accepted",
        ),
        (
            changed("choice = [0.1]", "int = [1, 2000000]"),
            "`space` is a grid of more than 100000 points: use fewer values, `trials` for the first so many, or `sampler = \"random\"`",
        ),
        (
            changed("validation = 100", "validation = 60000"),
            "`data.validation` is 60000: the training split of `mnist` has 60000 rows, of which some must be left",
        ),
        (
            changed("validation = 100", "validation = 1.5"),
            "`data.validation` is 1.5: a number of rows (1 or more), or a share of the training split above 0 and below 1, is accepted",
        ),
        (
            changed("validation = 100", "validation = 100\ntrain_rows = 59901"),
            "`data.train_rows` is 59901: 1 to 59900 is accepted: `mnist` has 60000 and 100 are held out",
        ),
        (
            changed("units = \"$classes\"", "units = 9"),
            "`network.layers[1]` is wrong: the network's output is [9] but the data have 10 classes: end with a `linear` layer of 10 units (or \"$classes\") (in the trial rate = 0.1)",
        ),
        (
            changed("type = \"flatten\"", "type = \"conv\"\nfilters = 3\nkernel = 99"),
            "`network.layers[0]` is wrong: a kernel of [99, 99] does not fit into 28 x 28: use a smaller kernel or `padding = \"same\"` (in the trial rate = 0.1)",
        ),
        (
            changed("type = \"flatten\"", "type = \"conv\"\nfilters = 3\nkernal = 9"),
            "`network.layers[0].kernal` is wrong: unknown field `kernal`, expected one of `filters`, `kernel`, `stride`, `padding`, `dilation`, `groups`, `bias`; did you mean `kernel`? (in the trial rate = 0.1)",
        ),
        (
            changed("epochs = 1", "epochs = 1\nobjective = \"validation_loss\""),
            "`training.objective` is \"validation_loss\": write it as `metric` under `[objective]`",
        ),
        (
            with("[search]\nsampler = \"random\"", rate),
            "`search.trials` is missing: the sampler \"random\" needs a number of trials, 1 to 100000",
        ),
        (
            with("[search]\nsampler = \"gird\"", rate),
            "`search.sampler` is wrong: unknown variant `gird`, expected `grid` or `random`; did you mean `grid`?",
        ),
        (with("[search]\ntrials = 0", rate), "`search.trials` is 0: 1 to 100000 is accepted"),
        (
            with("[objective]\nmetric = \"accuracy\"", rate),
            "`objective.metric` is wrong: unknown variant `accuracy`, expected `validation_error` or `validation_loss`",
        ),
        (
            with("", "rate = { choice = [0.1], when = { kinds = 1 } }\nkind = { int = [1, 2] }"),
            "`space.rate.when.kinds` is no parameter of this study: the parameters are `rate`, `kind`; did you mean `kind`?",
        ),
        (
            with("", "rate = { choice = [0.1], when = { kind = 3 } }\nkind = { int = [1, 2] }"),
            "`space.rate.when.kind` is 3: `kind` is int [1, 2]",
        ),
        (
            with("", "rate = { choice = [0.1], when = { kind = \"adma\" } }\nkind = { choice = [\"adam\", \"sgd\"] }"),
            "`space.rate.when.kind` is \"adma\": `kind` is one of \"adam\", \"sgd\"; did you mean \"adam\"?",
        ),
        (
            with("", "rate = { choice = [0.1], when = { kind = 1 } }\nkind = { int = [1, 2] }"),
            "`training.optimizer.learning_rate` is \"$rate\": `rate` does not exist here: give it a `default`, or another `when` (in the trial kind = 2)",
        ),
        (
            with("", "rate = { choice = [0.1], when = { kind = 1 } }\nkind = { choice = [1], when = { rate = 0.1 } }"),
            "`space.rate.when` is a circle among `rate`, `kind`: remove one of the conditions",
        ),
        (
            with("", "rate = { choice = [0.1, \"$rate\"] }"),
            "`training.optimizer.learning_rate` is \"$rate\": a parameter may not hold itself (in the trial rate = \"$rate\")",
        ),
        (
            with("", "rate = { choice = [0.1], default = 1 }"),
            "`space.rate.default` is 1: it is accepted only beside `when`",
        ),
        (
            with("", "classes = { choice = [1] }\nrate = { choice = [0.1] }"),
            "`space.classes` is the dataset's number of classes: another name is accepted",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let refused = refusal(&text);
        let expected = if expected.starts_with('`') { format!("s.toml: {expected}") } else { expected.into() };
        if refused.lines().next() != Some(expected.as_str()) {
            wrong.push(format!("expected {expected}\n     got {refused}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_study_that_is_not_there_is_named() {
    let error = Study::read("no/such.toml".as_ref()).expect_err("no file");
    assert_eq!(error.to_string(), "cannot read the study `no/such.toml`");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_points_stay_in_their_domains_and_do_not_depend_on_the_number_of_trials(
        seed in any::<u32>(), low in -1000i64..1000, width in 0i64..500, step in 1u64..40,
        from in 1e-6..1.0f64, ratio in 1.01..1e6f64,
    ) {
        let (high, to) = (low + width, from * ratio);
        let space = format!(
            "rate = {{ log = [{from:?}, {to:?}] }}\nn = {{ int = [{low}, {high}], step = {step} }}\nf = {{ float = [{from:?}, {to:?}] }}"
        );
        let space_of = |trials: u32| sampled(&format!("[search]\nsampler = \"random\"\ntrials = {trials}"), &space, &["n", "f"]);
        let (few, many) = (space_of(5), space_of(40));
        let all = many.sampler.points(&many.space, seed).expect("random");
        prop_assert_eq!(&all[..5], &few.sampler.points(&few.space, seed).expect("random")[..]);
        for point in &all {
            let n = point["n"].as_i64().expect("an integer");
            prop_assert!((low..=high).contains(&n) && (n - low) % step as i64 == 0);
            for name in ["rate", "f"] {
                let number = point[name].as_f64().expect("a number");
                prop_assert!((from..=to).contains(&number), "{} = {}", name, number);
            }
        }
    }
}

#[test]
fn numbers_are_spread_as_their_domains_say() {
    let space = r#"
rate = { log = [1e-4, 1.0] }
f = { float = [-1.0, 3.0], when = { n = 1 } }
n = { int = [1, 4], when = { m = true } }
m = { choice = [true, false] }
"#;
    let study = sampled("[search]\nsampler = \"random\"\ntrials = 4000", space, &["f"]);
    let all = study.sampler.points(&study.space, study.seed).expect("random");
    let share = |test: &dyn Fn(&serde_json::Map<String, Value>) -> bool| {
        all.iter().filter(|point| test(point)).count() as f64 / all.len() as f64
    };
    // Four standard deviations of a share of 4000 are below 0.032.
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 0.032, "{found}, expected {expected}");
    for decade in 0..4 {
        let low = 10f64.powi(-4 + decade);
        near(share(&|point| (low..low * 10.0).contains(&point["rate"].as_f64().unwrap_or(0.0))), 0.25);
    }
    near(share(&|point| point["m"] == true), 0.5);
    near(share(&|point| point.contains_key("n")), 0.5);
    for n in 1..=4 {
        near(share(&|point| point.get("n") == Some(&json!(n))), 0.125);
    }
    near(share(&|point| point.get("f").and_then(Value::as_f64).is_some_and(|f| f < 1.0)), 0.0625);
}
