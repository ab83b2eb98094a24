//! A picture of parts: areas in proportion to bytes, squarish, nested (Bruls, Huizing and van
//! Wijk: Squarified Treemaps, 2000).

use std::fmt::Write;

use crate::Part;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 760.0;

/// Room for a heading, and between nested boxes.
const HEADING: f64 = 20.0;
const GAP: f64 = 3.0;

/// Boxes smaller than this in either direction have no label.
const LABELLED: (f64, f64) = (60.0, 16.0);

/// About the width of one letter.
const LETTER: f64 = 6.7;

#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// An SVG picture of a part and what it consists of.
pub fn treemap(part: &Part) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <title>{}: {} bytes</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n",
        escape(&part.name),
        part.bytes
    );
    draw(&mut svg, part, Area { x: 0.0, y: 0.0, width: WIDTH, height: HEIGHT }, 0, 0);
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, part: &Part, area: Area, depth: usize, hue: usize) {
    let Area { x, y, width, height } = area;
    // Writing to a string does not fail.
    let _ = writeln!(
        svg,
        "<g><title>{name}: {bytes} bytes</title>\
         <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{fill}\" stroke=\"#ffffff\" stroke-width=\"1\"/></g>",
        name = escape(&part.name),
        bytes = part.bytes,
        fill = colour(depth, hue),
    );
    let labelled = width >= LABELLED.0 && height >= LABELLED.1;
    if labelled {
        let letters = ((width - 10.0) / LETTER) as usize;
        let label = format!("{} · {}", part.name, size(part.bytes));
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#1b1b1b\">{}</text>",
            x + 5.0,
            y + 14.0,
            escape(&cut(&label, letters)),
        );
    }
    let inside = Area {
        x: x + GAP,
        y: y + if labelled { HEADING } else { GAP },
        width: width - 2.0 * GAP,
        height: height - GAP - if labelled { HEADING } else { GAP },
    };
    if part.parts.is_empty() || inside.width < 4.0 || inside.height < 4.0 {
        return;
    }
    let mut children: Vec<&Part> = part.parts.iter().filter(|part| part.bytes > 0).collect();
    children.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    for (index, (child, area)) in squarify(&children, inside).into_iter().enumerate() {
        let hue = if depth == 0 { index } else { hue };
        draw(svg, child, area, depth + 1, hue);
    }
}

/// Rows of boxes along the shorter side, each filled as long as that makes them squarer.
fn squarify<'a>(parts: &[&'a Part], area: Area) -> Vec<(&'a Part, Area)> {
    let total: u64 = parts.iter().map(|part| part.bytes).sum();
    let scale = area.width * area.height / total as f64;
    let (mut left, mut rest, mut placed) = (area, parts, Vec::with_capacity(parts.len()));
    while !rest.is_empty() {
        let side = left.width.min(left.height);
        let sizes: Vec<f64> = rest.iter().map(|part| part.bytes as f64 * scale).collect();
        let mut count = 1;
        while count < rest.len() && worst(&sizes[..=count], side) <= worst(&sizes[..count], side) {
            count += 1;
        }
        let row: f64 = sizes[..count].iter().sum();
        let thickness = if side > 0.0 { row / side } else { 0.0 };
        let mut along = 0.0;
        for (part, size) in rest.iter().zip(&sizes).take(count) {
            let length = if thickness > 0.0 { size / thickness } else { 0.0 };
            let place = if left.width >= left.height {
                Area { x: left.x, y: left.y + along, width: thickness, height: length }
            } else {
                Area { x: left.x + along, y: left.y, width: length, height: thickness }
            };
            placed.push((*part, place));
            along += length;
        }
        if left.width >= left.height {
            left.x += thickness;
            left.width -= thickness;
        } else {
            left.y += thickness;
            left.height -= thickness;
        }
        rest = &rest[count..];
    }
    placed
}

/// The worst ratio of sides in a row.
fn worst(sizes: &[f64], side: f64) -> f64 {
    let sum: f64 = sizes.iter().sum();
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    let smallest = sizes.iter().copied().fold(f64::INFINITY, f64::min);
    (side * side * largest / (sum * sum)).max(sum * sum / (side * side * smallest))
}

/// Okabe and Ito's colours for all kinds of sight, paler with depth.
fn colour(depth: usize, hue: usize) -> String {
    const HUES: [(f64, f64, f64); 6] = [
        (86.0, 180.0, 233.0),
        (230.0, 159.0, 0.0),
        (0.0, 158.0, 115.0),
        (204.0, 121.0, 167.0),
        (240.0, 228.0, 66.0),
        (213.0, 94.0, 0.0),
    ];
    if depth == 0 {
        return "#eeeeee".into();
    }
    let (r, g, b) = HUES[hue % HUES.len()];
    let pale = if depth == 1 { 0.35 } else { 0.55 };
    let mix = |value: f64| (value + (255.0 - value) * pale) as u8;
    format!("#{:02x}{:02x}{:02x}", mix(r), mix(g), mix(b))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.2} MB", bytes as f64 / 1e6),
    }
}

fn cut(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(letters.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no control characters.
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_in_proportion_and_inside() {
        let parts: Vec<Part> = [500u64, 300, 120, 50, 20, 7, 2, 1]
            .iter()
            .map(|bytes| Part { name: bytes.to_string(), bytes: *bytes, parts: vec![] })
            .collect();
        let area = Area { x: 10.0, y: 20.0, width: 300.0, height: 200.0 };
        let placed = squarify(&parts.iter().collect::<Vec<_>>(), area);
        assert_eq!(placed.len(), parts.len());
        for (part, place) in placed {
            let expected = part.bytes as f64 / 1000.0 * 300.0 * 200.0;
            assert!((place.width * place.height - expected).abs() < 1e-6 * expected.max(1.0));
            assert!(place.x >= 9.999 && place.x + place.width <= 310.001);
            assert!(place.y >= 19.999 && place.y + place.height <= 220.001);
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_picture() {
        let part = Part { name: "<a href=\"x\">&\u{1}".into(), bytes: 1, parts: vec![] };
        assert!(treemap(&part).contains("&lt;a href=&quot;x&quot;>&amp;\u{fffd}"));
    }
}
