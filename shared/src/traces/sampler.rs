//! Which traces are sent, by `OTEL_TRACES_SAMPLER`. Always by the trace's id alone, so that all who see a job agree.

use opentelemetry::trace::TraceId;

const VARIABLE: &str = "OTEL_TRACES_SAMPLER";
const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// Whether a client's word counts.
    by_parent: bool,
    /// Of all traces.
    share: f64,
}

impl Sampler {
    pub(super) fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let name = lookup(VARIABLE).unwrap_or_else(|| "parentbased_always_on".into());
        let (by_parent, rule) = name.strip_prefix("parentbased_").map_or((false, name.as_str()), |rule| (true, rule));
        let share = match rule {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => match lookup(ARGUMENT).map(|text| (text.parse::<f64>(), text)) {
                None => 1.0,
                Some((Ok(share), _)) if (0.0..=1.0).contains(&share) => share,
                Some((_, text)) => {
                    return Err(format!("{ARGUMENT} is `{text}`: a share from 0 to 1 is accepted, like 0.1"));
                }
            },
            _ => {
                return Err(format!(
                    "{VARIABLE} is `{name}`: always_on, always_off and traceidratio are accepted, each also with `parentbased_` before it"
                ));
            }
        };
        Ok(Self { by_parent, share })
    }

    /// Whether this trace is sent; `parent` is what its client says, if it has one.
    pub(super) fn takes(&self, trace: TraceId, parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.by_parent => sampled,
            _ => {
                // As other implementations compute it: the lower 63 bits.
                let bytes = trace.to_bytes();
                let low = u64::from_be_bytes(bytes[8..].try_into().expect("eight bytes"));
                ((low & (u64::MAX >> 1)) as f64) < self.share * (1u64 << 63) as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: Option<&str>, argument: Option<&str>) -> Result<Sampler, String> {
        Sampler::read(&|variable| {
            let value = match variable {
                VARIABLE => name,
                ARGUMENT => argument,
                _ => None,
            };
            value.map(str::to_owned)
        })
    }

    #[test]
    fn a_share_is_by_the_traces_id_and_a_client_is_heard() {
        let (low, high) = (TraceId::from_bytes([0x11; 16]), TraceId::from_bytes([0x7f; 16]));
        let tenth = read(Some("traceidratio"), Some("0.2")).expect("accepted");
        assert!(tenth.takes(low, None) && !tenth.takes(high, None) && !tenth.takes(high, Some(true)));
        let usual = read(None, None).expect("the default");
        assert!(usual.takes(high, None) && !usual.takes(high, Some(false)) && usual.takes(high, Some(true)));
        let never = read(Some("parentbased_always_off"), None).expect("accepted");
        assert!(!never.takes(low, None) && never.takes(low, Some(true)));
    }

    #[test]
    fn what_is_no_sampler_is_told_by_its_variable() {
        assert!(
            read(Some("jaeger_remote"), None)
                .expect_err("none")
                .starts_with("OTEL_TRACES_SAMPLER is `jaeger_remote`: ")
        );
        for wrong in ["2", "-0.1", "nan", "much"] {
            assert!(
                read(Some("traceidratio"), Some(wrong)).expect_err("none").contains("a share from 0 to 1"),
                "{wrong}"
            );
        }
    }
}
