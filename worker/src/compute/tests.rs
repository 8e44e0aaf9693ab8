//! Networks as a whole, against PyTorch.

mod architectures;
mod fixture;
pub(super) mod golden;

pub(super) use fixture::{Fixture, noise};

use candle_core::Device;

/// Where the generic path is tested: on the processors, or on the device that `GANNET_TEST_DEVICE` names.
pub(super) fn apart() -> Device {
    thread_local! {
        // A driver's handles are a thread's own.
        static OPENED: Device = {
            let named = std::env::var("GANNET_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
            let device: super::Device = named.parse().expect("a device");
            match device.open().expect("a device that can be used") {
                super::Backend::Candle(device) => device,
                super::Backend::Engine => Device::Cpu,
            }
        };
    }
    OPENED.with(Device::clone)
}
