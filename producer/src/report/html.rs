//! The report of a study: one HTML file that needs nothing else and runs nothing.

use std::fmt::Write as _;

use serde_json::Value;

use super::layout::{self, Look, Plot, objective_name};
use super::plot;
use super::summary::{Ending, StudySummary, TrialRow};
use super::{display, display_number};
use crate::words::count;

/// Trials that the table lists.
const MOST_ROWS: usize = 1_000;

const STYLE: &str = include_str!("style.css");

/// The report: what was tuned, the winner, the plots, the trials. Every text that comes from outside is
/// escaped, and the page's own policy forbids scripts and everything from elsewhere.
pub fn study_html(summary: &StudySummary) -> String {
    let mut page = String::new();
    let title = escape(&format!("{}: study report", summary.run));
    let head = format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{STYLE}{}</style>
</head>
<body>
<main>
"#,
        plot::STYLE
    );
    page.push_str(&head);
    page.push_str(&header(summary));
    page.push_str(&winner(summary));
    let plots = [layout::objective_plot(summary), layout::scaling_plot(summary), layout::curves_plot(summary)];
    for (index, plot) in plots.iter().flatten().enumerate() {
        page.push_str(&figure(plot, index));
    }
    page.push_str(&trials(summary));
    page.push_str("<footer>Written by Gannet.</footer>\n</main>\n</body>\n</html>\n");
    page
}

fn header(summary: &StudySummary) -> String {
    let names: Vec<String> = summary.parameters.iter().map(|name| format!("<code>{}</code>", escape(name))).collect();
    let tuned = match names.as_slice() {
        [] => "No parameter was tuned".to_owned(),
        [one] => format!("Tuned: {one}"),
        [others @ .., last] => format!("Tuned: {} and {last}", others.join(", ")),
    };
    let on = summary.dataset.as_ref().map(|name| format!(" on <code>{}</code>", escape(name))).unwrap_or_default();
    let rows = if summary.validation_rows > 0 {
        format!(", measured on {} held out of the training split", count(summary.validation_rows as usize, "row"))
    } else {
        String::new()
    };
    let mut text = format!(
        "<header>\n<p class=\"kind\">Study</p>\n<h1>{}</h1>\n<p>{tuned}{on}, in {}. Made small: {}{rows}.</p>\n",
        escape(summary.run.as_str()),
        count(summary.trials.len(), "trial"),
        objective_name(summary.objective),
    );
    for note in &summary.notes {
        let _ = writeln!(text, "<p>{}</p>", escape(note));
    }
    text.push_str("</header>\n");
    text
}

fn winner(summary: &StudySummary) -> String {
    let Some(best) = summary.best() else {
        return "<section><h2>The best trial</h2>\n<p>No trial has finished with a value yet.</p></section>\n".into();
    };
    let mut numbers = Vec::new();
    if let Some(metrics) = best.validation {
        numbers.push(("validation error", percent(metrics.error)));
        numbers.push(("validation loss", display_number(metrics.loss)));
    }
    match summary.test {
        Some(metrics) => numbers.push(("test error", percent(metrics.error))),
        None => numbers.push(("test error", "not measured".into())),
    }
    let mut text =
        format!("<section>\n<h2>The best trial: <code>{}</code></h2>\n<dl class=\"numbers\">\n", escape(&best.id));
    for (name, number) in numbers {
        let _ = writeln!(text, "<div><dt>{name}</dt><dd>{number}</dd></div>");
    }
    text.push_str("</dl>\n");
    if !best.parameters.is_empty() {
        text.push_str("<dl class=\"parameters\">\n");
        for (name, value) in &best.parameters {
            let _ = writeln!(text, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(&display(value)));
        }
        text.push_str("</dl>\n");
    }
    text.push_str("</section>\n");
    text
}

fn figure(plot: &Plot, index: usize) -> String {
    let title = escape(&plot.title);
    let Ok(inside) = plot::draw(plot) else {
        return format!("<section><h2>{title}</h2><p>This plot could not be drawn.</p></section>\n");
    };
    let mut text = format!(
        "<section>\n<h2>{title}</h2>\n<figure>\n{}<svg viewBox=\"{}\" role=\"img\" aria-labelledby=\"plot{index}-title plot{index}-text\">\n<title id=\"plot{index}-title\">{title}</title>\n<desc id=\"plot{index}-text\">{}</desc>\n{inside}</svg>\n",
        legend(plot),
        plot::view_box(),
        escape(&description(plot)),
    );
    if !plot.caption.is_empty() {
        let _ = writeln!(text, "<figcaption>{}</figcaption>", escape(&plot.caption));
    }
    text.push_str("</figure>\n</section>\n");
    text
}

fn legend(plot: &Plot) -> String {
    let Some(name) = &plot.legend else { return String::new() };
    let mut text = format!("<ul class=\"legend\" aria-label=\"Legend\">\n<li class=\"name\">{}</li>\n", escape(name));
    let mut named: Vec<&str> = Vec::new();
    for series in &plot.series {
        if named.contains(&series.name.as_str()) {
            continue;
        }
        named.push(&series.name);
        let mark = match plot::css_colour(series.look) {
            Some(colour) => format!("<span class=\"dot\" style=\"background:{colour}\"></span>"),
            None if series.look == Look::Ideal => "<span class=\"dashes\"></span>".into(),
            None => "<span class=\"rule\"></span>".into(),
        };
        let _ = writeln!(text, "<li>{mark}{}</li>", escape(&series.name));
    }
    text.push_str("</ul>\n");
    text
}

/// For those who hear the plot.
fn description(plot: &Plot) -> String {
    let points: usize = plot.series.iter().map(|series| series.points.len()).sum();
    let of = match &plot.legend {
        Some(name) if plot.series.len() > 1 => format!(" in {} lines by {name}", plot.series.len()),
        _ => String::new(),
    };
    format!("Across: {}. Up: {}. {}{of}. {}", plot.x.label, plot.y.label, count(points, "point"), plot.caption)
}

fn trials(summary: &StudySummary) -> String {
    let ranked = summary.ranked();
    let shown = &ranked[..ranked.len().min(MOST_ROWS)];
    let mut text = String::from("<section>\n<h2>Trials</h2>\n");
    if shown.len() < ranked.len() {
        let _ = writeln!(text, "<p>The first {} of {}, best first.</p>", shown.len(), ranked.len());
    }
    text.push_str("<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Trials, best first\">\n<table>\n<thead><tr><th scope=\"col\">trial</th>");
    for name in &summary.parameters {
        let _ = write!(text, "<th scope=\"col\"><code>{}</code></th>", escape(name));
    }
    for name in ["status", "validation error", "validation loss", "epochs", "time, s"] {
        let _ = write!(text, "<th scope=\"col\">{name}</th>");
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    let best = summary.best();
    for trial in shown {
        text.push_str(&row(summary, trial, best.is_some_and(|best| best.id == trial.id)));
    }
    text.push_str("</tbody>\n</table>\n</div>\n</section>\n");
    text
}

fn row(summary: &StudySummary, trial: &TrialRow, is_best: bool) -> String {
    let mut text =
        format!("<tr{}><th scope=\"row\">{}</th>", if is_best { " class=\"best\"" } else { "" }, escape(&trial.id));
    for name in &summary.parameters {
        let value = trial.parameters.get(name).unwrap_or(&Value::Null);
        let _ =
            write!(text, "<td class=\"{}\">{}</td>", if value.is_number() { "n" } else { "" }, escape(&display(value)));
    }
    let status = trial.ending.as_str();
    let problem = trial.problem.as_ref().map(|why| format!("<small>{}</small>", escape(why))).unwrap_or_default();
    let mark = if is_best { " ★<span class=\"heard\"> best</span>" } else { "" };
    let quiet = if trial.ending == Ending::Done { "" } else { "off" };
    let _ = write!(text, "<td class=\"{quiet}\">{status}{mark}{problem}</td>");
    let number = |value: Option<String>| format!("<td class=\"n\">{}</td>", value.unwrap_or_else(|| "–".into()));
    text.push_str(&number(trial.validation.map(|metrics| percent(metrics.error))));
    text.push_str(&number(trial.validation.map(|metrics| display_number(metrics.loss))));
    text.push_str(&number((!trial.epochs.is_empty()).then(|| trial.epochs.len().to_string())));
    text.push_str(&number(trial.seconds.map(|seconds| format!("{seconds:.1}"))));
    text.push_str("</tr>\n");
    text
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// Text for an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
