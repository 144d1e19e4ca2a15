use super::*;

/// A document as text, one line per section.
fn shown(text: &str) -> Vec<String> {
    let document = read(text).expect("a file");
    let sections = document.sections.iter().map(|section| {
        let settings = section.settings.iter();
        let settings = settings.map(|it| format!("{}={:?}@{}", it.key, it.value.as_str(), it.line));
        let error = section.error.as_ref().map(|it| format!(" !{}: {}", it.line, it.what));
        let settings = settings.collect::<Vec<_>>().join(" ");
        format!("[{}]@{} {settings}{}", section.header, section.line, error.unwrap_or_default())
    });
    sections.collect()
}

/// The expected values are what `configparser.RawConfigParser` of CPython 3.11 reads.
#[test]
fn a_file_is_read_as_configparser_reads_it() {
    for (text, sections) in [
        ("", &[][..]),
        ("# a\n; b\n\n", &[]),
        ("[a]\nx = 1\ny: 2\nz=3=4\n", &["[a]@1 x=\"1\"@2 y=\"2\"@3 z=\"3=4\"@4"]),
        ("[a]\nX-Y = 1 # no comment\n", &["[a]@1 x-y=\"1 # no comment\"@2"]),
        ("[a] b\nx = 1\n", &["[a]@1 x=\"1\"@2"]),
        ("[a] # ]\nx = 1\n", &["[a] # ]@1 x=\"1\"@2"]),
        ("[ a ]\nx =\n", &["[ a ]@1 x=\"\"@2"]),
        ("  [a]\n  x = 1\n  y = 2\n", &["[a]@1 x=\"1\"@2 y=\"2\"@3"]),
        (
            "[a]\nx = 1\n  y = 2\n\n  # c\n z\nw = 3\n",
            &["[a]@1 x=\"1\\ny = 2\\n\\nz\"@2 w=\"3\"@7"],
        ),
        ("[a]\ns3 =\n  p = q\n  r = s\n", &["[a]@1 s3=\"\\np = q\\nr = s\"@2"]),
        ("[a]\n  x = 1\n y = 2\n", &["[a]@1 x=\"1\"@2 y=\"2\"@3"]),
        ("[a]\r\nx = 1\r\ry = 2\n", &["[a]@1 x=\"1\"@2 y=\"2\"@4"]),
        ("[a]\nx = \u{a0}1\u{1c}\u{2028}\n", &["[a]@1 x=\"1\"@2"]),
        ("[a]\n\u{a0}x = 1\ny = 2\n", &["[a]@1 x=\"1\"@2 y=\"2\"@3"]),
        ("[a]\n[b]\nx = 1", &["[a]@1 ", "[b]@2 x=\"1\"@3"]),
        ("[a]\nx = 1\n[DEFAULT]\nx = 2\ny = 3\n", &["[a]@1 x=\"1\"@2 y=\"3\"@5"]),
        ("[a]\n[]\n", &["[a]@1  !2: is no setting: there is no '=' in it"]),
        (
            "[a]\nx = 1\n[b]\n[a]\ny = 2\n",
            &["[a]@1 x=\"1\"@2 y=\"2\"@5 !4: begins the section of line 1 again", "[b]@3 "],
        ),
        (
            "[a]\nx = 1\nX = 2\n[b]\n",
            &["[a]@1 x=\"1\"@2 x=\"2\"@3 !3: sets x again, after line 2", "[b]@4 "],
        ),
        ("[a]\nnothing\nx = 1\n", &["[a]@1 x=\"1\"@3 !2: is no setting: there is no '=' in it"]),
        (
            "[a]\nx =\n  y\n[b]\n",
            &[
                "[a]@1 x=\"\\ny\"@2 !2: x is a block of indented lines, one of them without '='",
                "[b]@4 ",
            ],
        ),
        ("[a]\n= 1\n", &["[a]@1  !2: has no name before its '='"]),
    ] {
        assert_eq!(shown(text), sections, "{text:?}");
    }
}

#[test]
fn errors_of_all_sections_are_errors_of_the_file() {
    for (text, line, what) in [
        ("x = 1\n[a]\n", 1, "before the first [section]"),
        ("\n# c\nprofile a]\n", 3, "before the first [section]"),
        ("\u{feff}[a]\nx = 1\n", 1, "byte order mark"),
        ("\u{feff}# c\n[a]\n", 1, "byte order mark"),
        ("[a]\n[DEFAULT]\nx = 1\nx = 2\n", 4, "sets x again"),
        ("[DEFAULT]\nnothing\n", 2, "no setting"),
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.line, line, "{text:?}");
        assert!(error.what.contains(what), "{text:?}: {error:?}");
    }
}

#[test]
fn a_possible_header_is_suspect() {
    for (text, line) in [
        ("[a]\nx = 1\nprofile b]\n", 3),
        ("[a]\nx = 1\n  [profile b]\n", 3),
        ("[a]\n[profile b\n", 2),
        ("[a]\n= profile b\n", 2),
    ] {
        let document = read(text).expect("a file");
        let [suspect] = document.suspects.as_slice() else { panic!("{text:?}") };
        assert_eq!(suspect.line, line, "{text:?}");
        assert!(suspect.text.contains("profile b"), "{text:?}");
    }
    assert!(read("[a]\nx =\n  y = z\n").expect("a file").suspects.is_empty());
}

#[test]
fn debug_shows_no_value() {
    let document = read("[a]\nsecret = canary\ncanary\n").expect("a file");
    assert!(!format!("{document:?}").contains("canary"));
}

/// A file of 200 KiB in one line, or in many, is read in linear time, which is milliseconds.
#[test]
fn large_files_are_read_in_linear_time() {
    let started = std::time::Instant::now();
    let lines: String = (0..20_000).map(|n| format!("[p{n}]\nk{n} = v\n")).collect();
    assert_eq!(read(&lines).expect("a file").sections.len(), 20_000);
    read(&format!("[a]\nx = {}\n", "v".repeat(1 << 20))).expect("a file");
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}
