//! A page of metrics: OpenMetrics where it is asked for, else Prometheus's older text, which every scraper reads.

use std::fmt::Write as _;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The media type and the text, by what the `Accept` headers name.
pub(super) fn page<'a>(registry: &Registry, mut accepts: impl Iterator<Item = &'a str>) -> (&'static str, String) {
    let mut text = String::new();
    encode(&mut text, registry).expect("a string takes everything");
    match accepts.any(|accepted| accepted.contains("application/openmetrics-text")) {
        true => (OPEN_METRICS, text),
        false => (PROMETHEUS, older(&text)),
    }
}

/// OpenMetrics as the older text: there a counter's own name has the ending `_total` and an info is a gauge that has `_info`,
/// and neither units nor the end are told.
fn older(text: &str) -> String {
    let mut page = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(words)) => help = Some((name, words)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (ending, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                if let Some((of, words)) = help.take()
                    && of == name
                {
                    let _ = writeln!(page, "# HELP {name}{ending} {words}");
                }
                let _ = writeln!(page, "# TYPE {name}{ending} {kind}");
            }
            (Some("#"), ..) => {}
            _ => {
                page.push_str(line);
                page.push('\n');
            }
        }
    }
    page
}
