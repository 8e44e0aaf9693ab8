//! A network's parameters while it is trained: candle's variables, and how new ones begin.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use rand_chacha::rand_core::Rng as _;
use shared::contract::{Init, Parameter};
use shared::random;

/// The variables of a network, in the order of its layers.
pub(super) struct Parameters {
    entries: Vec<(Parameter, Var)>,
    map: VarMap,
    dtype: DType,
}

impl Parameters {
    /// New ones. Each tensor's numbers come from a stream of its own, named by `seed` and its name.
    pub(super) fn new(list: Vec<Parameter>, seed: u32, dtype: DType) -> Result<Self> {
        let mut entries = Vec::with_capacity(list.len());
        for parameter in list {
            let values = Tensor::from_vec(initial(&parameter, seed), parameter.shape.as_slice(), &Device::Cpu)?;
            entries.push((parameter, Var::from_tensor(&values.to_dtype(dtype)?)?));
        }
        let map = VarMap::new();
        map.data()
            .lock()
            .expect("nothing panics while it holds this lock")
            .extend(entries.iter().map(|(parameter, var)| (parameter.name.clone(), var.clone())));
        Ok(Self { entries, map, dtype })
    }

    /// Where a network finds its tensors.
    pub(super) fn builder(&self) -> VarBuilder<'_> {
        VarBuilder::from_varmap(&self.map, self.dtype, &Device::Cpu)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Parameter, &Var)> {
        self.entries.iter().map(|(parameter, var)| (parameter, var))
    }

    /// Those that the optimiser changes.
    pub(super) fn trained(&self) -> impl Iterator<Item = (&Parameter, &Var)> {
        self.all().filter(|(parameter, _)| parameter.init.is_trained())
    }

    /// Their present values, which later steps do not change.
    pub(super) fn copies(&self) -> Result<Vec<(String, Tensor)>> {
        self.all().map(|(parameter, var)| Ok((parameter.name.clone(), var.as_detached_tensor().copy()?))).collect()
    }

    /// Sets each to its tensor in `values`.
    pub(super) fn set(&self, values: &HashMap<String, Tensor>) -> Result<()> {
        self.all().try_for_each(|(parameter, var)| match values.get(&parameter.name) {
            Some(value) => var.set(value),
            None => Ok(()),
        })
    }
}

/// The first values of a parameter.
fn initial(parameter: &Parameter, seed: u32) -> Vec<f32> {
    let elements = parameter.shape.iter().product();
    match parameter.init {
        Init::Zeros | Init::RunningMean => vec![0.0; elements],
        Init::Ones | Init::RunningVariance => vec![1.0; elements],
        Init::HeUniform { fan_in } => {
            let bound = (6.0 / fan_in as f64).sqrt();
            let mut stream = random::stream(seed, &["parameter".into(), parameter.name.as_str().into()]);
            // 24 bits are what fp32 holds between 0 and 1 without rounding.
            let unit = |bits: u32| f64::from(bits >> 8) / f64::from(1 << 24);
            (0..elements).map(|_| (bound * (2.0 * unit(stream.next_u32()) - 1.0)) as f32).collect()
        }
    }
}
