//! The first admin key of an empty database: given by the operator, or generated.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::path::Path;

use crate::app::App;
use crate::domain::secret_format::prefix_of;
use crate::domain::secret_prefix::KnownPrefixes;
use crate::error::{Code, Error, Result};
use crate::service::operator_keys;
use crate::store::part_file::PartFile;
use crate::telemetry::notice::Notice;
use crate::verify::secret::{self, Secret};

/// The environment variable that contains the first admin key.
const ADMIN_KEY_VARIABLE: &str = "TOLLHOUSE_ADMIN_KEY";
/// The environment variable that names a file containing the first admin key.
const ADMIN_KEY_FILE_VARIABLE: &str = "TOLLHOUSE_ADMIN_KEY_FILE";

/// Minimum number of different characters of a given key. 32 random hexadecimal digits have 14 on average.
const MIN_DISTINCT_CHARACTERS: usize = 6;
/// Minimum number of characters of a given key that don't continue a repetition or a sequence. 32 random digits have
/// 30 on average.
const MIN_UNPREDICTABLE_CHARACTERS: usize = 20;

/// A key that the environment gives.
struct GivenKey {
    key: String,
    /// The variable that gives it.
    variable: &'static str,
    /// A shell expression for it.
    shown: String,
}

/// Creates the first admin key of an empty database. Returns a shell expression for that key, which the
/// server prints in a sample `curl` command, or `None` if a key existed already.
pub(super) async fn create(app: &App, file: &Path) -> Result<Option<String>> {
    let any_key_exists = match operator_keys::any_key_exists(app).await {
        // A damaged page isn't empty, and must not prevent the start: other keys can still be verified.
        Err(error) if error.database_fault.is_some() => true,
        exists => exists?,
    };
    if any_key_exists {
        warn_if_ignored(app).await;
        return Ok(None);
    }
    let current = app.settings.get().await?.to_arc();
    if let Some((secret, shown)) = secret_from_environment(&current.known_prefixes)? {
        operator_keys::create_first_key(app, secret).await?;
        return Ok(Some(shown));
    }
    let secret = Secret::generate(&app.random, current.settings.keys.default_prefix())?;
    let shown = if std::io::stderr().is_terminal() {
        None
    } else {
        // The file is written before the database: if the key were stored but its secret lost, nobody could
        // authenticate.
        write_key_file(file, secret.reveal(), &app.config.database.dir)?;
        Some(file)
    };
    if operator_keys::create_first_key(app, secret.clone()).await?.is_none() {
        return Ok(None);
    }
    match shown {
        Some(file) => {
            let path = file.display().to_string();
            tracing::info!(path, "first admin key written to file; store it safely and delete the file");
            Ok(Some(shell_cat(file)))
        }
        None => {
            let key = secret.reveal();
            Notice::info("first admin key, shown only once")
                .field("key", key)
                .showing_secrets()
                .text(format!("first admin key, shown only once:\n  {key}"))
                .print();
            Ok(Some(key.to_owned()))
        }
    }
}

/// The shell expression for the content of a file, on one line.
fn shell_cat(file: &Path) -> String {
    let name = file.display().to_string();
    if !name.contains(|c: char| c.is_ascii_control()) {
        return format!("$(cat '{}')", name.replace('\'', "'\\''"));
    }
    let escape = |c: char| match c {
        '\'' | '\\' => format!("\\{c}"),
        c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("$(cat $'{}')", name.chars().map(escape).collect::<String>())
}

/// Warns if the environment gives a first admin key that the database, which already has keys, doesn't know. The
/// operator may take that for a way to change the key.
async fn warn_if_ignored(app: &App) {
    // The file may be gone: it is needed only once.
    let Ok(Some(GivenKey { key, variable, .. })) = key_from_environment() else { return };
    // A key that can't be read, because the database is damaged, doesn't prevent the start.
    let is_known = async |hash| operator_keys::is_known(app, hash).await.unwrap_or(true);
    if !key.is_empty() && !is_known(Secret::from_plain_text(key).hash()).await {
        tracing::warn!(
            variable,
            "first admin key ignored: the database already has keys, and this is none of them; remove the variable, \
             or create a key with `tollhouse admin-key create`"
        );
    }
}

/// Reads the first admin key from the environment.
fn key_from_environment() -> Result<Option<GivenKey>> {
    let key = std::env::var_os(ADMIN_KEY_VARIABLE);
    let file = std::env::var_os(ADMIN_KEY_FILE_VARIABLE).filter(|path| !path.is_empty());
    match (key, file) {
        (Some(key), None) => Ok(Some(GivenKey::from_variable(&key))),
        (Some(key), Some(_)) if !key.is_empty() => Ok(Some(GivenKey::from_variable(&key))),
        (_, Some(path)) => {
            let shown = path.display();
            let text = std::fs::read_to_string(&path)
                .map_err(|error| invalid_request(format!("{ADMIN_KEY_FILE_VARIABLE}: {shown}: {error}")))?;
            Ok(Some(GivenKey {
                key: text.trim_end().to_owned(),
                variable: ADMIN_KEY_FILE_VARIABLE,
                shown: shell_cat(Path::new(&path)),
            }))
        }
        (None, None) => Ok(None),
    }
}

impl GivenKey {
    fn from_variable(key: &OsStr) -> Self {
        Self {
            // What isn't UTF-8 is no valid key.
            key: key.to_string_lossy().into_owned(),
            variable: ADMIN_KEY_VARIABLE,
            shown: format!("${ADMIN_KEY_VARIABLE}"),
        }
    }
}

/// Reads and validates the first admin key from the environment. Returns the secret and a shell expression for it.
pub(super) fn secret_from_environment(known: &KnownPrefixes) -> Result<Option<(Secret, String)>> {
    let Some(GivenKey { key, variable: source, shown }) = key_from_environment()? else { return Ok(None) };
    if !(32..=secret::MAX_SECRET_BYTES).contains(&key.len())
        || !key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        let max = secret::MAX_SECRET_BYTES;
        return Err(invalid_request(format!(
            "{source}: the key must have 32 to {max} printable ASCII characters and no spaces."
        )));
    }
    if !secret::is_plausible(known, &key) {
        let prefix = prefix_of(&key).unwrap_or_default();
        return Err(invalid_request(format!(
            "{source}: the key has the form {prefix}_… but a wrong checksum; check that it is complete."
        )));
    }
    if is_easy_to_guess(key.as_bytes()) {
        return Err(invalid_request(format!(
            "{source}: the key is easy to guess, because it has few different characters or repeats a pattern. \
             Generate a random key, for example with: openssl rand -hex 32"
        )));
    }
    Ok(Some((Secret::from_plain_text(key), shown)))
}

/// True if the key has few different characters, or mostly continues repetitions (`aaaa`, `abcabc`) and sequences
/// (`1234`). Random keys of at least 32 digits or letters are never that regular. Words are not detected.
fn is_easy_to_guess(key: &[u8]) -> bool {
    let distinct: BTreeSet<u8> = key.iter().copied().collect();
    let unpredictable = (0..key.len()).filter(|index| !is_predictable(key, *index)).count();
    distinct.len() < MIN_DISTINCT_CHARACTERS || unpredictable < MIN_UNPREDICTABLE_CHARACTERS
}

/// True if the character at `index` and the two before it form a sequence, or occurred before in the same order.
fn is_predictable(key: &[u8], index: usize) -> bool {
    let Some(start) = index.checked_sub(2) else { return false };
    let [first, second, third] = [key[start], key[start + 1], key[index]].map(i16::from);
    let step = second - first;
    let continues_sequence = step == third - second && (-1..=1).contains(&step);
    continues_sequence || key[..index].windows(3).any(|earlier| earlier == &key[start..=index])
}

fn invalid_request(message: String) -> Error {
    Error::new(Code::InvalidRequest, message)
}

/// Writes the key to a file that only its owner can read. An existing regular file is replaced: a failed start left
/// it, with a key that was never stored.
fn write_key_file(file: &Path, key: &str, data_dir: &Path) -> Result<()> {
    let part = PartFile::create_for_operator(file, true, data_dir)?;
    writeln!(part.file(), "{key}").map_err(|error| part.error(error))?;
    part.rename_to_target(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_key_replaces_only_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin.key");
        let link = dir.path().join("link");
        write_key_file(&file, "one", dir.path()).unwrap();
        write_key_file(&file, "two", dir.path()).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let refused = write_key_file(&link, "three", dir.path()).unwrap_err();
        assert!(refused.to_string().contains("link exists and is not a regular file"), "{refused}");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "two\n");
    }

    #[test]
    fn the_shown_command_works_with_any_file_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["plain", "it's", "a 'b' \\ $c", "line\nbreak 'q' \\", "\x1b[2J"] {
            let file = dir.path().join(name);
            std::fs::write(&file, name).unwrap();
            let command = format!("printf %s \"{}\"", shell_cat(&file));
            assert!(!command.contains(['\n', '\x1b']), "{command}");
            let output = std::process::Command::new("bash").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), name, "{command}");
        }
    }

    #[test]
    fn regular_keys_are_easy_to_guess() {
        for key in [
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababababababababababababab",
            "0123456789012345678901234567890123456789",
            "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789",
            "zyxwvutsrqponmlkjihgfedcba9876543210",
            "changemechangemechangemechangeme",
            "password12345678password12345678",
            "test-key-test-key-test-key-test-key-test-key-test-key",
            "00000000000000000000000000000000000000000000000000000000000000ab",
            "deadbeefdeadbeefdeadbeefdeadbeef",
        ] {
            assert!(is_easy_to_guess(key.as_bytes()), "{key}");
        }
    }

    /// A false alarm would stop a server from starting.
    #[test]
    fn random_keys_are_not_easy_to_guess() {
        for alphabet in ["0123456789", "0123456789abcdef", "abcdefghijklmnopqrstuvwxyz"] {
            let alphabet = alphabet.as_bytes();
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..20_000 {
                let key: Vec<u8> = (0..32).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
                assert!(!is_easy_to_guess(&key), "{}", String::from_utf8_lossy(&key));
            }
        }
        assert!(!is_easy_to_guess(b"the-first-admin-key-of-a-test-server-0123456789"));
    }
}
