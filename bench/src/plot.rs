//! Tables as plots. Nothing is filled behind them, and their colours are of
//! middling lightness: they stand on a light page and on a dark one.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{Column, Row, Table, grouped};

const INK: RGBColor = RGBColor(0x7b, 0x85, 0x90);
/// Tidemill's own rows.
const OWN: [RGBColor; 3] = [
    RGBColor(0x1a, 0x9e, 0x8f),
    RGBColor(0x53, 0xb8, 0x5c),
    RGBColor(0x2f, 0x86, 0xc9),
];
/// All the others.
const OTHERS: [RGBColor; 6] = [
    RGBColor(0xd9, 0x7b, 0x29),
    RGBColor(0xa0, 0x6c, 0xd5),
    RGBColor(0xcf, 0x56, 0x6a),
    RGBColor(0x9a, 0x8a, 0x3d),
    RGBColor(0x6f, 0x86, 0xa6),
    RGBColor(0xb5, 0x6b, 0x9e),
];
const BAR: RGBColor = RGBColor(0x8a, 0x9b, 0xb0);

const WIDTH: u32 = 900;
/// Of a letter, about.
const LETTER: usize = 7;
const ROW: i32 = 26;
/// Above the rows of a panel, for its name.
const HEAD: i32 = 34;
/// Behind the longest bar, for its figure.
const FIGURE: i32 = 76;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// A table as an SVG: bars with the least and most of the rounds, or lines if it
/// has an axis. Of the columns, those that have a ratio are shown.
pub(crate) fn svg(table: &Table) -> Result<String, Box<dyn Error>> {
    let columns: Vec<usize> = shown(&table.columns);
    let mut svg = String::new();
    if table.axis.is_some() {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, 340)).into_drawing_area();
        lines(table, &columns, &area)?;
    } else {
        let rows = i32::try_from(table.rows().len())?;
        let height = u32::try_from(HEAD + rows * ROW + 8)?;
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        bars(table, &columns, &area)?;
    }
    Ok(svg)
}

/// The columns that are drawn: the first one, and two more with a ratio.
fn shown(columns: &[Column]) -> Vec<usize> {
    let shown = columns.iter().enumerate();
    shown
        .filter(|(number, column)| *number == 0 || column.ratio)
        .map(|(number, _)| number)
        .take(3)
        .collect()
}

fn bars(table: &Table, columns: &[usize], area: &Area<'_>) -> Drawn {
    let rows = table.rows();
    let longest = rows
        .iter()
        .map(|row| table.label(*row).chars().count())
        .max();
    let labels = i32::try_from(longest.unwrap_or_default() * LETTER + 20)?;
    let middle = |row: usize| HEAD + ROW * i32::try_from(row).unwrap() + ROW / 2;
    for (number, row) in rows.iter().enumerate() {
        let own = is_own(row.system);
        let color = if own { OWN[0] } else { INK };
        let at = (labels - 10, middle(number));
        area.draw(&label(table.label(*row), at, HPos::Right, color))?;
    }
    let panel = (i32::try_from(WIDTH)? - labels) / i32::try_from(columns.len())?;
    for (place, column) in columns.iter().enumerate() {
        let left = labels + panel * i32::try_from(place)?;
        let name = table.columns[*column].name.to_string();
        area.draw(&label(name, (left, HEAD / 2), HPos::Left, INK))?;
        let spreads = rows.iter().map(|row| table.spread(*row, *column));
        let spreads: Vec<_> = spreads.collect();
        let most = spreads.iter().flatten().map(|spread| spread.most);
        let scale = f64::from(panel - FIGURE) / most.fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| left + (value * scale) as i32;
        for (number, (row, spread)) in rows.iter().zip(&spreads).enumerate() {
            let Some(spread) = spread else { continue };
            let color = if is_own(row.system) { OWN[0] } else { BAR };
            let y = middle(number);
            let bar = [(left, y - 8), (x(spread.median).max(left + 1), y + 8)];
            area.draw(&Rectangle::new(bar, color.filled()))?;
            let (least, most) = (x(spread.least), x(spread.most));
            if least < most {
                let ends = [least, most].map(|x| vec![(x, y - 4), (x, y + 4)]);
                for line in ends.into_iter().chain([vec![(least, y), (most, y)]]) {
                    area.draw(&PathElement::new(line, INK.stroke_width(1)))?;
                }
            }
            let figure = table.columns[*column].show(Some(spread.median));
            let figure = figure.parse().map_or(figure.clone(), grouped);
            let end = x(spread.median).max(most);
            area.draw(&label(figure, (end + 6, y), HPos::Left, INK))?;
        }
    }
    area.present()?;
    Ok(())
}

fn label(
    text: String,
    at: (i32, i32),
    side: HPos,
    color: RGBColor,
) -> Text<'static, (i32, i32), String> {
    let style = ("sans-serif", 13).into_font().color(&color);
    Text::new(text, at, style.pos(Pos::new(side, VPos::Center)))
}

fn lines(table: &Table, columns: &[usize], area: &Area<'_>) -> Drawn {
    // Two side by side, with what the lines are below them.
    let columns = &columns[..columns.len().min(2)];
    let systems = table.systems();
    let legend = 22 * i32::try_from(systems.len().div_ceil(3))? + 8;
    let (plots, below) = area.split_vertically(340 - legend);
    for (panel, column) in plots.split_evenly((1, columns.len())).iter().zip(columns) {
        let points = table.turns.iter();
        let x = range(points.clone().filter_map(|turn| turn.at));
        let y = range(points.filter_map(|turn| turn.values[*column]));
        // Ranges of logarithms and others are types of their own.
        match (logarithmic(&x), logarithmic(&y)) {
            (true, true) => draw(table, *column, panel, x.log_scale(), wider(&y).log_scale())?,
            (true, false) => draw(table, *column, panel, x.log_scale(), 0.0..y.end * 1.1)?,
            (false, true) => draw(table, *column, panel, x, wider(&y).log_scale())?,
            (false, false) => draw(table, *column, panel, x, 0.0..y.end * 1.1)?,
        }
    }
    for (number, system) in systems.iter().enumerate() {
        let (column, row) = (i32::try_from(number % 3)?, i32::try_from(number / 3)?);
        let (x, y) = (60 + column * 270, 8 + row * 22);
        let color = color(table, system);
        let mark = [(x, y), (x + 20, y)];
        below.draw(&PathElement::new(mark, color.stroke_width(3)))?;
        below.draw(&label((*system).to_owned(), (x + 28, y), HPos::Left, INK))?;
    }
    area.present()?;
    Ok(())
}

fn draw<X, Y>(
    table: &Table,
    column: usize,
    area: &Area<'_>,
    x: impl plotters::coord::ranged1d::AsRangedCoord<CoordDescType = X, Value = f64>,
    y: impl plotters::coord::ranged1d::AsRangedCoord<CoordDescType = Y, Value = f64>,
) -> Drawn
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let text = ("sans-serif", 12).into_font().color(&INK);
    let name = table.columns[column].name.to_string();
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 13).into_font().color(&INK))
        .margin(8)
        .margin_right(18)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(INK.mix(0.25))
        .light_line_style(TRANSPARENT)
        .label_style(text)
        .x_desc(table.axis.clone().unwrap_or_default())
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    for system in table.systems() {
        let color = color(table, system);
        let rows = table.rows();
        let rows: Vec<Row<'_>> = rows.into_iter().filter(|r| r.system == system).collect();
        let spreads = rows.iter().filter_map(|row| {
            let spread = table.spread(*row, column)?;
            Some((row.at?, spread))
        });
        let spreads: Vec<_> = spreads.collect();
        let points: Vec<(f64, f64)> = spreads.iter().map(|(x, s)| (*x, s.median)).collect();
        chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|at| Circle::new(*at, 3, color.filled())))?;
        chart.draw_series(spreads.iter().map(|(x, spread)| {
            let ends = vec![(*x, spread.least), (*x, spread.most)];
            PathElement::new(ends, color.stroke_width(1))
        }))?;
    }
    Ok(())
}

fn is_own(system: &str) -> bool {
    system.to_lowercase().contains("tidemill")
}

fn color(table: &Table, system: &str) -> RGBColor {
    let own = is_own(system);
    let same = table.systems();
    let mut same = same.iter().filter(|other| is_own(other) == own);
    let place = same.position(|other| *other == system).unwrap_or_default();
    let colors = if own { &OWN[..] } else { &OTHERS[..] };
    colors[place % colors.len()]
}

/// From the least to the most of some values.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (least, most) = values
        .filter(|value| value.is_finite())
        .fold((f64::MAX, f64::MIN), |(least, most), value| {
            (least.min(value), most.max(value))
        });
    if least < most {
        least..most
    } else {
        0.0..most.max(1.0)
    }
}

/// A logarithmic range with room around it.
fn wider(range: &std::ops::Range<f64>) -> std::ops::Range<f64> {
    range.start / 1.3..range.end * 1.3
}

/// Whether a range spans so much that its lower part would not be seen.
fn logarithmic(range: &std::ops::Range<f64>) -> bool {
    range.start > 0.0 && range.end / range.start > 40.0
}

/// A number for an axis: `10k`.
fn short(number: f64) -> String {
    for (size, unit) in [(1e6, "M"), (1e3, "k")] {
        if number.abs() >= size {
            return format!("{}{unit}", (number / size * 10.0).round() / 10.0);
        }
    }
    format!("{}", (number * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 2] = [Column::ratio("requests/s", 0), Column::plain("p50 ms", 2)];

    #[test]
    fn bars_have_a_row_each_and_its_figure() {
        let mut table = Table::new("GET", "native", &COLUMNS);
        table.add("native", vec![Some(12_345.0), None]);
        table.add("Tidemill", vec![None, Some(1.0)]);
        let svg = svg(&table).unwrap();
        for text in ["native", "Tidemill", "12,345", "requests/s"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(!svg.contains("p50"), "{svg}");
    }

    #[test]
    fn lines_are_drawn_over_one_point_and_over_many() {
        let mut table = Table::new("GET", "native", &COLUMNS).over("connections");
        table.add_at("native", 1.0, vec![Some(1.0), None]);
        svg(&table).unwrap();
        table.add_at("native", 10_000.0, vec![Some(2_000.0), None]);
        assert!(svg(&table).unwrap().contains("connections"));
    }

    #[test]
    fn numbers_on_axes_are_short() {
        assert_eq!(short(10_000.0), "10k");
        assert_eq!(short(1_500_000.0), "1.5M");
        assert_eq!(short(0.25), "0.25");
    }
}
