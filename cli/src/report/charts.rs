//! The page's pictures, as SVG.

use plotters::prelude::*;

use super::{Look, Series, Story};

const SIZE: (u32, u32) = (960, 220);
const STABLE: RGBColor = RGBColor(87, 96, 106);
const CANDIDATE: RGBColor = RGBColor(9, 105, 218);
const GRID: RGBColor = RGBColor(234, 238, 242);
const TEXT: RGBColor = RGBColor(87, 96, 106);

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A picture, or why there is none.
fn svg(
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn,
) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(&area).map_err(|error| error.to_string())?;
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}

/// Time along the bottom, something up to `top` along the side.
macro_rules! axes {
    ($area:expr, $story:expr, $top:expr, $label:expr) => {{
        let mut chart = ChartBuilder::on($area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..$story.lasted(), 0.0..$top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(("sans-serif", 13).into_font().color(&TEXT))
            .x_label_formatter(&|seconds| time(*seconds, $story.lasted()))
            .y_label_formatter(&$label)
            .y_labels(5)
            .draw()?;
        chart
    }};
}

/// The candidate's share over time.
pub(super) fn weights(story: &Story) -> Result<String, String> {
    svg(|area| {
        let mut chart = axes!(area, story, 100.0, |percent: &f64| format!("{percent} %"));
        let mut points = Vec::new();
        for (at, percent) in &story.weights {
            let before = points.last().map_or(0.0, |(_, percent)| *percent);
            points.push((story.seconds(*at), before));
            points.push((story.seconds(*at), *percent));
        }
        points.push((story.lasted(), points.last().map_or(0.0, |(_, percent)| *percent)));
        chart.draw_series(AreaSeries::new(points.clone(), 0.0, CANDIDATE.mix(0.12)))?;
        chart.draw_series(LineSeries::new(points, CANDIDATE.stroke_width(2)))?;
        Ok(())
    })
}

/// Both revisions' rates in a check, with their intervals.
pub(super) fn rates(story: &Story, series: &Series) -> Result<String, String> {
    let seen = |look: &Look| {
        let stable = look.stable.map_or(0.0, |rate| rate.share.rate());
        look.candidate.share.rate().max(stable)
    };
    // Intervals of the first requests reach everywhere, and would hide what is seen.
    let settled = series.looks.iter().map(|look| look.candidate.high).fold(1.0, f64::min);
    let top = series.looks.iter().map(seen).fold(settled, f64::max) * 1.15;
    let top = (100.0 * top).clamp(0.1, 100.0);
    svg(|area| {
        let mut chart = axes!(area, story, top, |percent: &f64| format!("{percent:.2} %"));
        // Counts begin anew with each step, and so do the lines.
        for step in series.looks.chunk_by(|a, b| a.stage == b.stage) {
            for (colour, rate) in [
                (STABLE, (|look| look.stable) as fn(&Look) -> Option<slsml_release::Rate>),
                (CANDIDATE, |look| Some(look.candidate)),
            ] {
                let points: Vec<_> = step
                    .iter()
                    .filter_map(|look| Some((story.seconds(look.at), rate(look)?)))
                    .filter(|(_, rate)| rate.share.trials > 0)
                    .collect();
                let up = points.iter().map(|(at, rate)| (*at, (100.0 * rate.high).min(top)));
                let down = points.iter().rev().map(|(at, rate)| (*at, 100.0 * rate.low));
                let band: Vec<_> = up.chain(down).collect();
                chart.draw_series(std::iter::once(Polygon::new(band, colour.mix(0.12))))?;
                let line = points.iter().map(|(at, rate)| (*at, 100.0 * rate.share.rate()));
                chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            }
        }
        Ok(())
    })
}

/// How long requests took: the 95th percentile of both.
pub(super) fn latency(story: &Story) -> Result<String, String> {
    let all = story.latency.iter().flatten().map(|(_, latency)| latency.p95_ms);
    let top = all.fold(1.0, f64::max) * 1.15;
    svg(|area| {
        let mut chart = axes!(area, story, top, |ms: &f64| format!("{ms:.0} ms"));
        for (colour, series) in [STABLE, CANDIDATE].into_iter().zip(&story.latency) {
            let line = series.iter().map(|(at, latency)| (story.seconds(*at), latency.p95_ms));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
        }
        Ok(())
    })
}

/// A time along a release of a length.
fn time(seconds: f64, lasted: f64) -> String {
    if lasted < 10.0 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    match seconds {
        0..=599 => format!("{seconds} s"),
        600..=35_999 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}
