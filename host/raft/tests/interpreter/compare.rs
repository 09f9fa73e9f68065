//! What counts as equal output, and how a difference reads.
//!
//! Log lines are dropped on both sides first: the core logs nothing, and the wording of a log is no decision. A line is
//! a log line when its first word, after indentation, is a level. Output that is empty, or becomes empty, equals `ok`.

/// First words that make a line a log line.
const LEVELS: [&str; 4] = ["DEBUG", "INFO", "WARN", "ERROR"];

/// The lines that are compared.
pub fn significant(output: &str) -> Vec<String> {
    let mut lines: Vec<String> = output
        .lines()
        .filter(|line| !line.split_whitespace().next().is_some_and(|word| LEVELS.contains(&word)))
        .map(|line| line.trim_end().to_owned())
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    if lines == ["ok"] {
        lines.clear();
    }
    lines
}

/// `None` where the two outputs are equal, otherwise the significant lines of both.
pub fn difference(expected: &str, actual: &str) -> Option<(Vec<String>, Vec<String>)> {
    let (expected, actual) = (significant(expected), significant(actual));
    (expected != actual).then_some((expected, actual))
}

/// The two outputs as one text: common lines plain, expected-only lines with `-`, actual-only lines with `+`.
pub fn side_by_side(expected: &[String], actual: &[String]) -> String {
    // Longest common subsequence, by the textbook table; outputs are a few hundred lines at most.
    let mut table = vec![vec![0_usize; actual.len() + 1]; expected.len() + 1];
    for (i, left) in expected.iter().enumerate().rev() {
        for (j, right) in actual.iter().enumerate().rev() {
            table[i][j] = if left == right { table[i + 1][j + 1] + 1 } else { table[i + 1][j].max(table[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut text = String::from("    (- expected, + actual)\n");
    while i < expected.len() || j < actual.len() {
        let (mark, line) = if i < expected.len() && j < actual.len() && expected[i] == actual[j] {
            (i, j) = (i + 1, j + 1);
            (' ', &expected[i - 1])
        } else if j == actual.len() || (i < expected.len() && table[i + 1][j] >= table[i][j + 1]) {
            i += 1;
            ('-', &expected[i - 1])
        } else {
            j += 1;
            ('+', &actual[j - 1])
        };
        text.push_str(&format!("  {mark} {line}\n"));
    }
    for (name, side) in [("expected", expected), ("actual", actual)] {
        if side.is_empty() {
            text.push_str(&format!("    ({name}: ok)\n"));
        }
    }
    text
}
