//! What the documentation claims to be tested is tested.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test: what is odd shall panic")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// All Rust sources of the workspace.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// The tests that the last column of the table rows of a page names.
fn named(page: &str) -> Vec<(String, Vec<String>)> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| feature"));
    rows.map(|row| {
        let columns: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let tests = columns.last().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (columns[columns.len() - 2].to_owned(), tests)
    })
    .collect()
}

#[test]
fn every_yes_of_the_comparison_names_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    let code: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let rows = named(&fs::read_to_string(root.join("docs/comparison.md")).unwrap());
    assert!(rows.len() > 50, "{} rows", rows.len());
    for (ours, tests) in rows {
        assert_eq!(ours == "Y", !tests.is_empty(), "{ours} {tests:?}");
        for test in tests {
            let is_there = code.contains(&format!("fn {test}(")) || code.contains(&format!("    {test},\n"));
            assert!(is_there, "docs/comparison.md names the test {test}, which is not there");
        }
    }
}
