//! Several readings of one quantity, and how they are written.

use std::fmt;

use anyhow::{Result, ensure};

/// At least one reading, sorted.
#[derive(Clone, Debug)]
pub struct Readings(Vec<f64>);

impl Readings {
    /// # Errors
    /// Without any reading, or when one is not a number: then something was not measured at all.
    pub fn new(readings: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut readings: Vec<f64> = readings.into_iter().collect();
        ensure!(!readings.is_empty(), "nothing was measured");
        ensure!(readings.iter().all(|reading| reading.is_finite()), "not a number: {readings:?}");
        readings.sort_by(f64::total_cmp);
        Ok(Self(readings))
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let half = self.0.len() / 2;
        if self.0.len() % 2 == 1 { self.0[half] } else { f64::midpoint(self.0[half - 1], self.0[half]) }
    }

    pub fn min(&self) -> f64 {
        self.0[0]
    }

    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// `median (min to max)`, with the precision that is asked for.
impl fmt::Display for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "**{:.digits$}** ({:.digits$} to {:.digits$})", self.median(), self.min(), self.max())
    }
}

/// A title, how it was taken, and the head of a Markdown table.
pub fn table(title: &str, how: &str, columns: &[&str]) {
    println!("## {title}\n\n{how}\n");
    row(columns);
    println!("|{}", "---|".repeat(columns.len()));
}

/// A row of a Markdown table.
pub fn row(cells: &[impl AsRef<str>]) {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    println!("| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let readings = Readings::new([9.0, 1.0, 2.0]).unwrap();
        assert_eq!((readings.median(), readings.min(), readings.max()), (2.0, 1.0, 9.0));
        assert_eq!(format!("{:.2}", Readings::new([4.0, 1.0, 2.0, 3.0]).unwrap()), "**2.50** (1.00 to 4.00)");
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(Readings::new([]).is_err());
        assert!(Readings::new([1.0, f64::NAN]).is_err());
    }
}
