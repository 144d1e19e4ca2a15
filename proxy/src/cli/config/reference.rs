//! Recognises command lines of mcp-proxy-for-aws ("the reference") in clients' files, and finds its own options in
//! them.

/// The names under which the reference is published.
const PACKAGES: [&str; 2] = ["mcp-proxy-for-aws", "mcp-proxy-for-aws-cli"];
/// Every command line of the reference contains one of these.
const MARKS: [&str; 2] = ["mcp-proxy-for-aws", "mcp_proxy_for_aws"];

/// The program that an entry starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Started {
    /// Another program.
    Other,
    /// The reference.
    Reference {
        /// The number of arguments before its own options.
        skipped: usize,
        /// Which of these arguments have no counterpart, as sentences.
        dropped: Vec<String>,
    },
    /// The reference, in a way that has no counterpart.
    Unknown(String),
}

/// The program that `command` with `arguments` starts.
pub(super) fn started(command: &str, arguments: &[String]) -> Started {
    let all = || std::iter::once(command).chain(arguments.iter().map(String::as_str));
    let is_mentioned = all().any(|word| MARKS.iter().any(|mark| word.contains(mark)));
    if !is_mentioned {
        return Started::Other;
    }
    let program = command.rsplit(['/', '\\']).next().unwrap_or(command);
    let program = program.strip_suffix(".exe").unwrap_or(program);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match program {
        program if PACKAGES.contains(&program) => {
            Started::Reference { skipped: 0, dropped: Vec::new() }
        }
        "uvx" => run_by("uvx", &words, 0, &UV),
        "uv" => match words.iter().position(|word| !word.starts_with('-')) {
            Some(at) if words[at..].starts_with(&["tool", "run"]) => {
                with_leading(&words[..at], run_by("uv tool run", &words, at + 2, &UV))
            }
            Some(at) if words[at..].starts_with(&["run"]) => {
                with_leading(&words[..at], run_by("uv run", &words, at + 1, &UV))
            }
            _ => Started::Unknown("uv starts it from a checkout of its source".to_owned()),
        },
        "pipx" if words.first() == Some(&"run") => run_by("pipx run", &words, 1, &PIPX),
        program if is_python(program) => module(&words),
        "docker" | "podman" | "finch" | "nerdctl" => Started::Unknown(format!(
            "{program} runs it in a container, with its own files and variables; install sigward-proxy \
             there, or write the entry anew by `sigward-proxy config --client …`"
        )),
        program if mentions_package(&words) || MARKS.iter().any(|it| program.contains(it)) => {
            Started::Unknown(format!("it is started by {program}, which isn't supported here"))
        }
        // The name is only part of an address or a directory for another program.
        _ => Started::Other,
    }
}

/// The options of a package runner.
struct Runner {
    /// Options that take a value.
    with_value: &'static [&'static str],
    /// Options that name the package; then the first word is a program of the package.
    from: &'static [&'static str],
    /// Options that change what the reference reads, and have no counterpart.
    refused: &'static [&'static str],
}

const UV: Runner = Runner {
    with_value: &[
        "--allow-insecure-host",
        "--build-constraints",
        "--cache-dir",
        "--color",
        "--config-file",
        "--config-setting",
        "--constraints",
        "--default-index",
        "--directory",
        "--env-file",
        "--exclude-newer",
        "--extra",
        "--extra-index-url",
        "--find-links",
        "--fork-strategy",
        "--from",
        "--group",
        "--index",
        "--index-strategy",
        "--index-url",
        "--keyring-provider",
        "--link-mode",
        "--overrides",
        "--package",
        "--prerelease",
        "--project",
        "--python",
        "--python-platform",
        "--refresh-package",
        "--reinstall-package",
        "--resolution",
        "--torch-backend",
        "--upgrade-package",
        "--with",
        "--with-editable",
        "--with-requirements",
        "-C",
        "-P",
        "-b",
        "-c",
        "-f",
        "-i",
        "-p",
        "-w",
    ],
    from: &["--from"],
    refused: &["--env-file"],
};

const PIPX: Runner = Runner {
    with_value: &["--spec", "--python", "--index-url", "-i", "--pip-args", "--with"],
    from: &["--spec"],
    refused: &[],
};

/// The program that a package runner starts with `words`, of which the first `skip` are its own.
fn run_by(runner: &str, words: &[&str], skip: usize, options: &Runner) -> Started {
    let mut dropped = Vec::new();
    let mut from = None;
    let mut at = skip;
    while let Some(word) = words.get(at).filter(|word| word.starts_with('-')) {
        at += 1;
        if *word == "--" {
            break;
        }
        let (name, mut value) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ => (*word, None),
        };
        if value.is_none() && options.with_value.contains(&name) {
            value = words.get(at).copied();
            at += 1;
        }
        if options.refused.contains(&name) {
            return Started::Unknown(format!(
                "{runner} {name} gives it variables from a file, which sigward-proxy wouldn't read; put them \
                 into `env` of the entry, without {name}"
            ));
        }
        if options.from.contains(&name) {
            from = value;
            continue;
        }
        let shown = value.map_or_else(|| name.to_owned(), |value| format!("{name} {value}"));
        // Options that only confirm or silence output are dropped without a note.
        if !["--yes", "-y", "--quiet", "-q", "--no-progress"].contains(&name) {
            dropped.push(format!("{runner} {shown} has no meaning for sigward-proxy"));
        }
    }
    let Some(word) = words.get(at) else {
        return Started::Unknown(format!("{runner} is given no package"));
    };
    let (package, version) = requirement(word);
    if !PACKAGES.contains(&package.as_str()) {
        return match from {
            Some(from) if PACKAGES.contains(&requirement(from).0.as_str()) => Started::Unknown(
                format!("{runner} starts {word:?}, another program of its package"),
            ),
            _ if word.contains('/') && MARKS.iter().any(|mark| word.contains(mark)) => {
                Started::Unknown(format!("{runner} starts {word:?}, a checkout of its source"))
            }
            _ => Started::Other,
        };
    }
    match from {
        Some(from) => {
            let (package, version) = requirement(from);
            let pinned = (!version.is_empty() && version != "@latest")
                || !PACKAGES.contains(&package.as_str());
            if pinned {
                dropped.push(format!("the version {from} was that of mcp-proxy-for-aws"));
            }
        }
        None if version.is_empty() || version == "@latest" => {}
        None => dropped.push(format!("the version {word} was that of mcp-proxy-for-aws")),
    }
    Started::Reference { skipped: at + 1, dropped }
}

/// Adds the options before the subcommand to the dropped ones.
fn with_leading(leading: &[&str], started: Started) -> Started {
    match started {
        Started::Reference { skipped, mut dropped } => {
            if !leading.is_empty() {
                let options = leading.join(" ");
                dropped.insert(0, format!("uv {options} has no meaning for sigward-proxy"));
            }
            Started::Reference { skipped, dropped }
        }
        other => other,
    }
}

/// A requirement's name in normalised form (PEP 503), and the rest: a version or extras.
fn requirement(text: &str) -> (String, &str) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    (name.to_ascii_lowercase().replace(['_', '.'], "-"), rest.trim())
}

fn is_python(program: &str) -> bool {
    let version = program.strip_prefix("python").or_else(|| program.strip_prefix("pypy"));
    program == "py" || version.is_some_and(|it| it.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// `python -m mcp_proxy_for_aws`, with options of the interpreter before it.
fn module(words: &[&str]) -> Started {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        match *word {
            "-m" => {
                let module = words.get(at + 1).copied().unwrap_or_default();
                let is_ours =
                    ["mcp_proxy_for_aws", "mcp_proxy_for_aws.server", "mcp_proxy_for_aws.__main__"];
                return match is_ours.contains(&module) {
                    true => Started::Reference { skipped: at + 2, dropped: Vec::new() },
                    false => Started::Other,
                };
            }
            "-X" | "-W" => at += 2,
            option if option.starts_with('-') && option != "-c" => at += 1,
            // A script or code.
            script => {
                return match MARKS.iter().any(|mark| script.contains(mark)) {
                    true => {
                        Started::Unknown("it is started from a checkout of its source".to_owned())
                    }
                    false => Started::Other,
                };
            }
        }
    }
    Started::Other
}

/// Whether a word, or a part of a command line within a word, is the package's name.
fn mentions_package(words: &[&str]) -> bool {
    let parts =
        words.iter().flat_map(|word| word.split(|c: char| c.is_whitespace() || "/'\"".contains(c)));
    let mut names = parts.map(|part| requirement(part).0);
    names.any(|name| PACKAGES.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://aws-mcp.us-east-1.api.aws/mcp";

    fn of(line: &str) -> Started {
        let mut words = line.split(' ').map(str::to_owned);
        let command = words.next().unwrap();
        started(&command, &words.collect::<Vec<_>>())
    }

    #[test]
    fn known_ways_to_start_the_reference_are_recognised() {
        for (line, skipped, dropped) in [
            ("mcp-proxy-for-aws", 0, 0),
            ("/home/a/.local/bin/mcp-proxy-for-aws", 0, 0),
            ("mcp-proxy-for-aws-cli", 0, 0),
            ("uvx mcp-proxy-for-aws", 1, 0),
            ("uvx mcp-proxy-for-aws@latest", 1, 0),
            ("/opt/homebrew/bin/uvx mcp-proxy-for-aws-cli@1.7.0", 1, 1),
            ("uvx mcp_proxy_for_aws==1.1.6", 1, 1),
            ("uvx --from mcp-proxy-for-aws mcp-proxy-for-aws", 3, 0),
            ("uvx --from=mcp-proxy-for-aws@1.6 --python 3.12 -q mcp-proxy-for-aws", 5, 2),
            ("uvx --from git+https://github.com/aws/mcp-proxy-for-aws mcp-proxy-for-aws", 3, 1),
            ("uvx --refresh --with boto3 mcp-proxy-for-aws@latest", 4, 2),
            ("uv tool run mcp-proxy-for-aws@latest", 3, 0),
            ("uv --offline tool run --from mcp-proxy-for-aws mcp-proxy-for-aws", 6, 1),
            ("uv run mcp-proxy-for-aws", 2, 0),
            ("uv run --with mcp-proxy-for-aws mcp-proxy-for-aws", 4, 1),
            ("pipx run mcp-proxy-for-aws", 2, 0),
            ("pipx run --spec mcp-proxy-for-aws==1.7.0 mcp-proxy-for-aws", 4, 1),
            ("python -m mcp_proxy_for_aws", 2, 0),
            ("/venv/bin/python3.12 -u -X dev -m mcp_proxy_for_aws.server", 5, 0),
        ] {
            let found = of(&format!("{line} {URL} --profile a"));
            let Started::Reference { skipped: found, dropped: sentences } = found else {
                panic!("{line}: {found:?}");
            };
            assert_eq!((found, sentences.len()), (skipped, dropped), "{line}: {sentences:?}");
        }
    }

    #[test]
    fn ways_without_a_counterpart_are_reported() {
        for (line, named) in [
            (
                "docker run -i --rm public.ecr.aws/mcp-proxy-for-aws/mcp-proxy-for-aws:latest",
                "container",
            ),
            ("podman run mcp-proxy-for-aws", "container"),
            ("uvx --env-file .env mcp-proxy-for-aws", "--env-file"),
            ("uvx --from mcp-proxy-for-aws python", "another program"),
            ("uv --directory /src/mcp_proxy_for_aws run server.py", "checkout"),
            ("uv run /src/mcp_proxy_for_aws/server.py", "checkout"),
            ("python /src/mcp_proxy_for_aws/server.py", "checkout"),
            ("bash -lc uvx mcp-proxy-for-aws@latest", "bash"),
            ("cmd /c uvx mcp-proxy-for-aws@latest", "cmd"),
        ] {
            match of(&format!("{line} {URL}")) {
                Started::Unknown(why) => assert!(why.contains(named), "{line}: {why}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        let line = ["-c".to_owned(), "exec uvx 'mcp-proxy-for-aws@latest' x".to_owned()];
        assert!(matches!(started("sh", &line), Started::Unknown(_)));
    }

    #[test]
    fn a_command_that_only_contains_the_name_is_another_program() {
        for line in [
            "uvx awslabs.aws-api-mcp-server@latest",
            "npx -y @modelcontextprotocol/server-filesystem /src/mcp-proxy-for-aws-notes",
            "uvx --from other other --note mcp-proxy-for-aws",
            "uvx mcp-proxy-for-awsome",
            "python -m other mcp_proxy_for_aws",
            "sigward-proxy https://mcp-proxy-for-aws.example/mcp",
        ] {
            assert_eq!(of(line), Started::Other, "{line}");
        }
    }
}
