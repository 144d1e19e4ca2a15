//! The known clients: the file of each with its MCP servers, and the format.
//!
//! Source: the clients' own documentation, November 2026.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::text::Node;
use super::{jsonc, toml};

/// An MCP client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Client {
    ClaudeCode,
    ClaudeDesktop,
    Kiro,
    Cursor,
    Vscode,
    Codex,
    Cline,
    Zed,
}

/// The scope of a client's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scope {
    /// All projects of this user
    User,
    /// The project in this directory
    Project,
}

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// JSON, possibly with comments and trailing commas.
    Json,
    Toml,
}

/// The directories of clients' files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub config: Option<PathBuf>,
    /// `$CODEX_HOME`.
    pub codex: Option<PathBuf>,
    /// `$CLAUDE_CONFIG_DIR`.
    pub claude: Option<PathBuf>,
    /// Whether the system is macOS, which has its own directories.
    pub is_mac: bool,
}

impl Client {
    /// All clients.
    pub(super) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// The client's own name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::ClaudeDesktop => "Claude Desktop",
            Self::Kiro => "Kiro",
            Self::Cursor => "Cursor",
            Self::Vscode => "VS Code",
            Self::Codex => "Codex",
            Self::Cline => "Cline",
            Self::Zed => "Zed",
        }
    }

    pub(super) fn format(self) -> Format {
        match self {
            Self::Codex => Format::Toml,
            Self::ClaudeCode
            | Self::ClaudeDesktop
            | Self::Kiro
            | Self::Cursor
            | Self::Vscode
            | Self::Cline
            | Self::Zed => Format::Json,
        }
    }

    /// The member of the file that contains the servers.
    pub(super) fn container(self) -> &'static str {
        match self {
            Self::Vscode => "servers",
            Self::Codex => "mcp_servers",
            Self::Zed => "context_servers",
            Self::ClaudeCode | Self::ClaudeDesktop | Self::Kiro | Self::Cursor | Self::Cline => {
                "mcpServers"
            }
        }
    }

    /// The file of this client, or the reason why there is none.
    pub(super) fn file(self, scope: Scope, places: &Places) -> Result<PathBuf, String> {
        if scope == Scope::Project {
            let path = match self {
                Self::ClaudeCode => ".mcp.json",
                Self::Kiro => ".kiro/settings/mcp.json",
                Self::Cursor => ".cursor/mcp.json",
                Self::Vscode => ".vscode/mcp.json",
                Self::Codex => ".codex/config.toml",
                Self::Zed => ".zed/settings.json",
                Self::ClaudeDesktop | Self::Cline => {
                    return Err(format!(
                        "{} has no file for a project; leave --scope out",
                        self.name()
                    ));
                }
            };
            return Ok(path.into());
        }
        let home = || places.home.as_deref().ok_or("HOME isn't set; name the file by --file");
        Ok(match self {
            Self::ClaudeCode => match &places.claude {
                Some(directory) => directory.join(".claude.json"),
                None => home()?.join(".claude.json"),
            },
            Self::ClaudeDesktop if places.is_mac => {
                places.support()?.join("Claude/claude_desktop_config.json")
            }
            Self::ClaudeDesktop => {
                return Err("Claude Desktop has no documented place for its file on Linux; name \
                            the file by --file, such as ~/.config/Claude/claude_desktop_config.json"
                    .to_owned());
            }
            Self::Kiro => home()?.join(".kiro/settings/mcp.json"),
            Self::Cursor => home()?.join(".cursor/mcp.json"),
            Self::Vscode => places.support()?.join("Code/User/mcp.json"),
            Self::Cline => places.support()?.join(
                "Code/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json",
            ),
            Self::Codex => match &places.codex {
                Some(directory) => directory.join("config.toml"),
                None => home()?.join(".codex/config.toml"),
            },
            Self::Zed if places.is_mac => home()?.join(".config/zed/settings.json"),
            Self::Zed => places.support()?.join("zed/settings.json"),
        })
    }
}

impl Client {
    /// The file in which older versions of this client stored the servers.
    pub(super) fn old_file(self, scope: Scope, places: &Places) -> Option<PathBuf> {
        match (self, scope) {
            (Self::Vscode, Scope::Project) => Some(".vscode/settings.json".into()),
            (Self::Vscode, Scope::User) => {
                Some(places.support().ok()?.join("Code/User/settings.json"))
            }
            _ => None,
        }
    }

    /// The places of servers in its files: the current one, and those of older versions.
    pub(super) fn containers(self) -> Vec<Vec<String>> {
        let own = vec![self.container().to_owned()];
        match self {
            // In settings.json, a name may contain a dot in place of an object.
            Self::Vscode => vec![
                own,
                vec!["mcp".to_owned(), "servers".to_owned()],
                vec!["mcp.servers".to_owned()],
            ],
            _ => vec![own],
        }
    }
}

impl Places {
    /// The directory for programs' settings.
    fn support(&self) -> Result<PathBuf, String> {
        let home = || self.home.as_deref().ok_or("HOME isn't set; name the file by --file");
        Ok(match &self.config {
            _ if self.is_mac => home()?.join("Library/Application Support"),
            // A relative directory is ignored (XDG Base Directory Specification).
            Some(directory) if directory.is_absolute() => directory.clone(),
            Some(_) | None => home()?.join(".config"),
        })
    }
}

impl Format {
    /// See [`jsonc::set`] and [`toml::set`].
    pub(super) fn set(self, text: &str, path: &[&str], value: &Node) -> Result<String, String> {
        match self {
            Self::Json => jsonc::set(text, path, value),
            Self::Toml => toml::set(text, path, value),
        }
    }

    pub(super) fn remove(self, text: &str, path: &[&str]) -> Result<Option<String>, String> {
        match self {
            Self::Json => jsonc::remove(text, path),
            Self::Toml => toml::remove(text, path),
        }
    }

    pub(super) fn find(self, text: &str, path: &[&str]) -> Result<Option<Node>, String> {
        match self {
            Self::Json => jsonc::find(text, path),
            Self::Toml => toml::find(text, path),
        }
    }

    pub(super) fn names(self, text: &str, path: &[&str]) -> Result<Vec<String>, String> {
        match self {
            Self::Json => jsonc::names(text, path),
            Self::Toml => toml::names(text, path),
        }
    }

    pub(super) fn replace_first(
        self,
        text: &str,
        path: &[&str],
        count: usize,
        by: &[String],
    ) -> Result<String, String> {
        match self {
            Self::Json => jsonc::replace_first(text, path, count, by),
            Self::Toml => toml::replace_first(text, path, count, by),
        }
    }

    /// The format by the file's name.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension() {
            Some(ending) if ending == "toml" => Self::Toml,
            Some(_) | None => Self::Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(is_mac: bool) -> Places {
        Places { home: Some("/h".into()), config: None, codex: None, claude: None, is_mac }
    }

    #[test]
    fn each_client_has_its_file() {
        let support = "/h/Library/Application Support";
        let cline =
            "Code/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json";
        for (client, linux, mac, project) in [
            (Client::ClaudeCode, "/h/.claude.json", "/h/.claude.json", ".mcp.json"),
            (
                Client::ClaudeDesktop,
                "",
                &format!("{support}/Claude/claude_desktop_config.json"),
                "",
            ),
            (
                Client::Kiro,
                "/h/.kiro/settings/mcp.json",
                "/h/.kiro/settings/mcp.json",
                ".kiro/settings/mcp.json",
            ),
            (Client::Cursor, "/h/.cursor/mcp.json", "/h/.cursor/mcp.json", ".cursor/mcp.json"),
            (
                Client::Vscode,
                "/h/.config/Code/User/mcp.json",
                &format!("{support}/Code/User/mcp.json"),
                ".vscode/mcp.json",
            ),
            (Client::Codex, "/h/.codex/config.toml", "/h/.codex/config.toml", ".codex/config.toml"),
            (Client::Cline, &format!("/h/.config/{cline}"), &format!("{support}/{cline}"), ""),
            (
                Client::Zed,
                "/h/.config/zed/settings.json",
                "/h/.config/zed/settings.json",
                ".zed/settings.json",
            ),
        ] {
            for (scope, is_mac, expected) in [
                (Scope::User, false, linux),
                (Scope::User, true, mac),
                (Scope::Project, false, project),
            ] {
                let file = client.file(scope, &places(is_mac));
                match expected {
                    "" => assert!(file.is_err(), "{client:?}: {file:?}"),
                    path => assert_eq!(file, Ok(path.into()), "{client:?}"),
                }
            }
        }
    }

    #[test]
    fn the_places_of_older_versions_are_searched() {
        for scope in [Scope::User, Scope::Project] {
            for client in Client::all() {
                let old = client.old_file(scope, &places(false));
                assert_eq!(old.is_some(), *client == Client::Vscode, "{old:?}");
            }
        }
        let user = Client::Vscode.old_file(Scope::User, &places(false));
        assert_eq!(user, Some("/h/.config/Code/User/settings.json".into()));
    }

    #[test]
    fn variables_move_the_files() {
        let moved = Places {
            config: Some("/c".into()),
            codex: Some("/x".into()),
            claude: Some("/a".into()),
            ..places(false)
        };
        for (client, path) in [
            (Client::Vscode, "/c/Code/User/mcp.json"),
            (Client::Zed, "/c/zed/settings.json"),
            (Client::Codex, "/x/config.toml"),
            (Client::ClaudeCode, "/a/.claude.json"),
        ] {
            assert_eq!(client.file(Scope::User, &moved), Ok(path.into()));
        }
        let relative = Places { config: Some("c".into()), ..places(false) };
        assert_eq!(
            Client::Zed.file(Scope::User, &relative),
            Ok("/h/.config/zed/settings.json".into())
        );
        let homeless = Places { home: None, ..places(false) };
        assert!(Client::Cursor.file(Scope::User, &homeless).unwrap_err().contains("--file"));
    }
}
