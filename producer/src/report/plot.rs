//! Draws a [`Plot`] as an SVG that stands inside a page: no size of its own, no background, colours that
//! the page's style replaces in the dark.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::layout::{Look, MOST_COLOURS, Plot};

/// Width and height in units of the SVG.
const SIZE: (u32, u32) = (760, 400);

/// Stand-ins that the page's style gives their colours; no others may be these.
const INK: RGBColor = RGBColor(0x44, 0x44, 0x45);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xde);
const QUIET: RGBColor = RGBColor(0xaa, 0xaa, 0xab);

/// Readable on white and on black, and apart for colour-blind people (after Okabe and Ito 2008).
const COLOURS: [RGBColor; MOST_COLOURS] = [
    RGBColor(0x1f, 0x78, 0xc8),
    RGBColor(0xd9, 0x6a, 0x00),
    RGBColor(0x14, 0x91, 0x6c),
    RGBColor(0xb8, 0x4f, 0x9e),
    RGBColor(0xa8, 0x83, 0x00),
    RGBColor(0x3d, 0x9f, 0xcf),
    RGBColor(0xc2, 0x3b, 0x3b),
    RGBColor(0x80, 0x80, 0x81),
];

/// The style of all plots of a page.
pub(super) const STYLE: &str = r##"
svg text { font-family: inherit; fill: var(--ink-2); font-variant-numeric: tabular-nums; }
svg [stroke="#DDDDDE"] { stroke: var(--line); }
svg [stroke="#AAAAAB"] { stroke: var(--quiet); }
svg [stroke="#444445"] { stroke: var(--ink-2); }
"##;

/// A colour for the page's legend; `None` for the looks that have a class of their own.
pub(super) fn css_colour(look: Look) -> Option<String> {
    match look {
        Look::Coloured { colour, .. } => {
            let RGBColor(r, g, b) = COLOURS[colour % COLOURS.len()];
            Some(format!("#{r:02x}{g:02x}{b:02x}"))
        }
        Look::Quiet | Look::Ideal => None,
    }
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// The plot as the inside of an `<svg>` element with [`view_box`].
///
/// # Errors
/// plotters' own; drawing into memory has none.
pub(super) fn draw(plot: &Plot) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_top(14)
            .margin_right(18)
            .x_label_area_size(54)
            .y_label_area_size(64)
            .build_cartesian_2d(plot.x.low..plot.x.high, plot.y.low..plot.y.high)?;
        axes(&root, &chart, plot)?;
        for series in &plot.series {
            draw_series(&mut chart, &series.points, series.look)?;
        }
        root.present()?;
    }
    // The page writes the element itself, with a title and a description.
    let inside = svg.split_once('>').map_or("", |(_, rest)| rest).trim_end();
    Ok(inside.strip_suffix("</svg>").unwrap_or(inside).to_owned())
}

/// The coordinates that [`draw`] uses.
pub(super) fn view_box() -> String {
    format!("0 0 {} {}", SIZE.0, SIZE.1)
}

fn axes(root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, chart: &Chart<'_, '_>, plot: &Plot) -> Drawn {
    let area = chart.plotting_area();
    let (left, bottom) = area.map_coordinate(&(plot.x.low, plot.y.low));
    let (right, top) = area.map_coordinate(&(plot.x.high, plot.y.high));
    let text =
        |size: i32, h: HPos, v: VPos| TextStyle::from(("sans-serif", size).into_font()).color(&INK).pos(Pos::new(h, v));
    for (at, label) in &plot.y.ticks {
        let (_, y) = area.map_coordinate(&(plot.x.low, *at));
        root.draw(&PathElement::new(vec![(left, y), (right, y)], GRID.stroke_width(1)))?;
        root.draw(&Text::new(label.clone(), (left - 8, y), text(13, HPos::Right, VPos::Center)))?;
    }
    for (at, label) in &plot.x.ticks {
        let (x, _) = area.map_coordinate(&(*at, plot.y.low));
        root.draw(&PathElement::new(vec![(x, bottom), (x, bottom + 5)], INK.stroke_width(1)))?;
        root.draw(&Text::new(label.clone(), (x, bottom + 9), text(13, HPos::Center, VPos::Top)))?;
    }
    root.draw(&PathElement::new(vec![(left, bottom), (right, bottom)], INK.stroke_width(1)))?;
    root.draw(&Text::new(plot.x.label.clone(), ((left + right) / 2, bottom + 32), text(14, HPos::Center, VPos::Top)))?;
    let upright = text(14, HPos::Center, VPos::Top).transform(FontTransform::Rotate270);
    root.draw(&Text::new(plot.y.label.clone(), (4, (top + bottom) / 2), upright))
}

fn draw_series(chart: &mut Chart<'_, '_>, points: &[(f64, f64)], look: Look) -> Drawn {
    match look {
        Look::Quiet => {
            chart.draw_series(LineSeries::new(points.iter().copied(), QUIET.stroke_width(1)))?;
        }
        Look::Ideal => {
            chart.draw_series(DashedLineSeries::new(points.iter().copied(), 6, 5, INK.stroke_width(1)))?;
        }
        Look::Coloured { colour, joined } => {
            let colour = COLOURS[colour % COLOURS.len()];
            if joined {
                chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            }
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        }
    }
    Ok(())
}
