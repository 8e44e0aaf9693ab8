//! What computes: this machine's processors by the engine, or a GPU by candle.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;

use shared::settings::cores;

use super::{simd, simd_path};

/// A device by its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// `cpu`: the processors.
    #[default]
    Cpu,
    /// `cuda:N`: NVIDIA's GPU of this number, from 0, as `CUDA_VISIBLE_DEVICES` orders them.
    Cuda(usize),
}

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// `auto`: the first GPU if this program can use one and the machine has one, else the processors.
    Auto,
    /// This one.
    This(Device),
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The program was built for processors alone.
    #[error(
        "`{0}` needs a program that was built for GPUs: `cargo build --release --features cuda`, with the CUDA toolkit \
         (nvcc) installed; this one has `cpu` only"
    )]
    NotBuilt(Device),
    /// There is none of this number.
    #[error("there is no `{device}` here: the driver shows {found} GPUs; they are counted from 0")]
    Missing {
        /// What was asked for.
        device: Device,
        /// How many there are.
        found: usize,
    },
    /// The driver, or candle, refuses.
    #[error("`{device}` cannot be used: {problem}")]
    Fails {
        /// What was asked for.
        device: Device,
        /// What it said.
        problem: String,
    },
}

impl Device {
    /// Whether int8 is more than another word for fp32 there.
    pub fn computes_int8(self) -> bool {
        self == Self::Cpu && simd().has_int8()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (text, number) {
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(number)) => Ok(Self::Cuda(number)),
            _ => Err("`cpu`, `cuda:N` (a GPU by its number, from 0) or `auto` is accepted".into()),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::This) }
    }
}

impl DeviceChoice {
    /// The device that is meant here. It is not taken yet: no memory of a GPU is.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn find(self) -> Result<Device, DeviceError> {
        match self {
            Self::This(Device::Cpu) => Ok(Device::Cpu),
            Self::This(device @ Device::Cuda(number)) => match gpus(device)? {
                found if number < found => Ok(device),
                found => Err(DeviceError::Missing { device, found }),
            },
            // A driver that fails is told: nobody would look for it behind a slow worker.
            Self::Auto => match gpus(Device::Cuda(0)) {
                Ok(0) | Err(DeviceError::NotBuilt(_)) => Ok(Device::Cpu),
                found => found.map(|_| Device::Cuda(0)),
            },
        }
    }
}

/// The device that an argument asks for, found: a parser for command lines.
///
/// # Errors
/// There is no such device here, or the text names none.
pub fn find_device(text: &str) -> Result<Device, String> {
    text.parse::<DeviceChoice>()?.find().map_err(|error| error.to_string())
}

/// How many GPUs the driver shows.
#[cfg(feature = "cuda")]
fn gpus(device: Device) -> Result<usize, DeviceError> {
    use candle_core::cuda::cudarc::driver::{CudaContext, sys::CUresult};
    match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) if error.0 == CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
        Err(error) => Err(DeviceError::Fails { device, problem: error.to_string() }),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpus(device: Device) -> Result<usize, DeviceError> {
    Err(DeviceError::NotBuilt(device))
}

impl Device {
    /// What results and checkpoints say of who computed them: `cuda`, or the SIMD path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Cpu => simd_path(),
            Self::Cuda(_) => "cuda",
        }
    }

    /// Executors that it is shared by unless somebody says otherwise.
    pub fn slots(self) -> u32 {
        match self {
            Self::Cpu => cores(),
            Self::Cuda(_) => 1,
        }
    }

    /// Whether an executor on it needs an environment variable: where libraries lie, which a program for GPUs is linked with
    /// whatever it computes on; and what the driver reads, which devices there are, and where kernels are kept once they are
    /// compiled (below the home folder unless said otherwise).
    pub(crate) fn reads(self, variable: &OsStr) -> bool {
        match variable.to_str().unwrap_or_default() {
            "LD_LIBRARY_PATH" => cfg!(feature = "cuda"),
            name => {
                self != Self::Cpu && (name == "HOME" || ["CUDA_", "NVIDIA_"].iter().any(|own| name.starts_with(own)))
            }
        }
    }

    /// Takes the device.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn open(self) -> Result<Backend, DeviceError> {
        match self {
            Self::Cpu => Ok(Backend::Engine),
            Self::Cuda(number) => match candle_core::Device::new_cuda(number) {
                Ok(device) => Ok(Backend::Candle(device)),
                Err(candle_core::Error::NotCompiledWithCudaSupport) => Err(DeviceError::NotBuilt(self)),
                Err(error) => Err(DeviceError::Fails { device: self, problem: bare(error).to_string() }),
            },
        }
    }
}

/// An error of candle's without the addresses that led to it.
fn bare(error: candle_core::Error) -> candle_core::Error {
    if let candle_core::Error::WithBacktrace { inner, .. } = error { bare(*inner) } else { error }
}

/// A device that was opened, with what computes on it.
#[derive(Debug, Clone)]
pub enum Backend {
    /// The engine, on the processors.
    Engine,
    /// candle's operations, on this device.
    Candle(candle_core::Device),
}

impl Backend {
    /// What checkpoints say of who computed them; see [`Device::path`].
    pub fn path(&self) -> &'static str {
        match self {
            Self::Engine => simd_path(),
            Self::Candle(device) if device.is_cuda() => "cuda",
            Self::Candle(_) => "candle",
        }
    }

    /// Whether it is another device than the processors: such a one may fail, and then goes on failing.
    pub fn is_apart(&self) -> bool {
        matches!(self, Self::Candle(device) if !device.is_cpu())
    }
}

/// What a job was computed with, slice by slice: `earlier` (nothing for the first slice, or several paths joined by `+`) and then
/// `path`.
pub fn joined_paths(earlier: Option<&str>, path: &str) -> String {
    let mut all: Vec<&str> = earlier.into_iter().flat_map(|earlier| earlier.split('+')).chain([path]).collect();
    all.sort_unstable();
    all.dedup();
    all.join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for name in ["cpu", "cuda:0", "cuda:12"] {
            let DeviceChoice::This(device) = name.parse().expect("a device") else { panic!("{name} is one") };
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        for wrong in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            let error = wrong.parse::<DeviceChoice>().expect_err("no device");
            assert!(error.contains("cuda:N") && error.contains("auto"), "{error}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_program_for_processors_says_how_to_build_another() {
        let error = DeviceChoice::This(Device::Cuda(0)).find().expect_err("not built for it").to_string();
        assert!(error.contains("`cuda:0`") && error.contains("--features cuda"), "{error}");
        assert!(matches!(Device::Cuda(0).open(), Err(DeviceError::NotBuilt(Device::Cuda(0)))));
        assert_eq!(DeviceChoice::Auto.find().expect("a device"), Device::Cpu);
    }

    #[test]
    fn executors_on_the_processors_have_an_empty_environment() {
        for name in ["HOME", "CUDA_VISIBLE_DEVICES"].map(OsStr::new) {
            assert!(!Device::Cpu.reads(name) && Device::Cuda(0).reads(name), "{name:?}");
        }
        // The program's own, if it is linked with the driver.
        assert_eq!(Device::Cpu.reads(OsStr::new("LD_LIBRARY_PATH")), cfg!(feature = "cuda"));
        assert!(!Device::Cuda(0).reads(OsStr::new("AWS_SECRET_ACCESS_KEY")));
    }

    #[test]
    fn paths_of_all_slices_are_told() {
        assert_eq!(joined_paths(None, "avx2"), "avx2");
        assert_eq!(joined_paths(Some("avx2"), "avx2"), "avx2");
        assert_eq!(joined_paths(Some("cuda"), "avx512"), "avx512+cuda");
        assert_eq!(joined_paths(Some("avx2+cuda"), "avx2"), "avx2+cuda");
    }
}
