//! Tables for people: aligned columns, no lines.

use std::fmt;

/// Spaces between two columns.
const GAP: usize = 2;

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a header. `Display` writes it, each line with its end and without trailing spaces.
#[derive(Clone, Debug)]
pub(super) struct Table<const N: usize> {
    header: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(header: [(&'static str, Align); N]) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Control characters would break the lines; they become `?`.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| cell.replace(char::is_control, "?")));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = self.header.map(|(title, _)| width(title));
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        let line = |cells: [&str; N]| {
            let mut text = String::new();
            for ((cell, (_, align)), widest) in cells.iter().zip(self.header).zip(widths) {
                let padding = " ".repeat(widest - width(cell));
                match align {
                    Align::Left => text.extend([cell, padding.as_str()]),
                    Align::Right => text.extend([padding.as_str(), cell]),
                }
                text.extend([" "; GAP]);
            }
            text
        };
        writeln!(f, "{}", line(self.header.map(|(title, _)| title)).trim_end())?;
        for row in &self.rows {
            writeln!(f, "{}", line(row.each_ref().map(String::as_str)).trim_end())?;
        }
        Ok(())
    }
}

/// Columns on a terminal, for text without wide or combining characters. Names are ASCII; reasons stand last.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_are_kept() {
        let mut table = Table::new([("name", Align::Left), ("flows", Align::Right), ("reason", Align::Left)]);
        table.row(["é".into(), "7".into(), "a\nb\x1b[2J".into()]);
        table.row(["longer".into(), "1234567".into(), String::new()]);
        insta::assert_snapshot!(table, @r"
        name      flows  reason
        é             7  a?b?[2J
        longer  1234567
        ");
    }
}
