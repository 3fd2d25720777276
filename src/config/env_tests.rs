use super::*;

#[test]
fn every_row_says_what_it_must() {
    let mut names: Vec<_> = variables().map(|variable| variable.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), variables().count(), "no name stands twice");
    for Variable { name, purpose, more, need, values, shown } in variables() {
        assert!(name.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{name}");
        assert!(!purpose.is_empty() && !purpose.ends_with('.'), "{name}: completes a sentence");
        assert!(
            more.is_empty() || more.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit()),
            "{name}"
        );
        if let (Values::Number(low, high), Need::Default(value)) = (values, need) {
            let value: u64 = value.parse().unwrap();
            assert!((*low..=*high).contains(&value), "{name}");
        }
        if let (Values::Number(low, high), false) = (values, shown.is_empty()) {
            assert!((*low..=*high).contains(&shown.parse().unwrap()), "{name}");
        }
        assert!(*values != Values::Flag || matches!(need, Need::Default("0" | "1")), "{name}");
        let shows = !shown.is_empty() || *values == Values::Password;
        assert!(*need != MAY || shows, "{name}: the example shows a value");
    }
    let last = SECTIONS.last().unwrap();
    assert!(last.title.contains("gateway") && of_gateway().eq(last.variables));
}

#[test]
fn the_example_can_be_read_and_sets_what_it_shows() {
    let text = example();
    let live = super::super::lines::read(text.as_bytes(), |_| None);
    assert_eq!(live.faults, []);
    let mut set: Vec<_> = live.values.keys().map(String::as_str).collect();
    set.sort_unstable();
    let mut expected: Vec<_> = variables().filter(|v| v.need == MUST).map(|v| v.name).collect();
    expected.push("REQUIRE_TLS");
    expected.sort_unstable();
    assert_eq!(set, expected);
    // With each # before a name taken away every line is one of a variable.
    let all: String = text
        .lines()
        .map(|line| {
            let is_value = line
                .strip_prefix('#')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
            format!("{}\n", if is_value { &line[1..] } else { line })
        })
        .collect();
    let all = super::super::lines::read(all.as_bytes(), |_| None);
    assert_eq!(all.faults, []);
    for variable in variables() {
        let value = &all.values[variable.name];
        let expected = if variable.shown.is_empty() {
            variable.default().unwrap_or("")
        } else {
            variable.shown
        };
        assert_eq!(value, expected, "{}", variable.name);
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100));
}
