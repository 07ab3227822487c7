//! The commands of the README, the quickstart and pages that continue it, run as a reader runs them: in order, in one
//! shell, in an empty directory. What the pages show as a result is compared with the real one.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rexpect::process::WaitStatus;
use rexpect::session::spawn_command;
use serde_json::{Value, json};
use tollhouse::config::Config;

use crate::support::guide::{self, Block};
use crate::support::{DEADLINE, assert_same_items, free_address};

const README: &str = "README.md";
const QUICKSTART: &str = "docs/quickstart.md";
/// Continues the quickstart after its end.
const TOUR: &str = "docs/tour.md";
/// Pages that use the server and the variables of the quickstart's beginning.
const CONFIGURATION: &str = "docs/reference/configuration.md";
const LIMITS: &str = "docs/concepts/limits.md";
const VERIFICATION: &str = "docs/concepts/verification.md";
const PLANS: &str = "docs/guides/plans.md";
const OWN_KEY: &str = "docs/guides/own-key.md";
const ROTATE_A_KEY: &str = "docs/guides/rotate-a-key.md";
const LEAKED_KEY: &str = "docs/guides/leaked-key.md";
const PERSONAL_DATA: &str = "docs/guides/personal-data.md";

/// Serves until Ctrl-C, so it is run by a test of its own.
const SAMPLE: &str = "sample";

/// The address that the pages show. The tests listen on another one, so that port 8080 may be taken.
const SHOWN_URL: &str = "URL=http://127.0.0.1:8080\n";

/// The address of the endpoint that the quickstart starts, which the tests replace, too.
const SHOWN_ENDPOINT: &str = "API=127.0.0.1:3000\n";

/// Separates the results of blocks.
const END: &str = "=== end of block ===";

/// The shell blocks that are run in order, each with the JSON that is shown as its result (empty if there is none).
fn steps(file: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    let mut last_was_a_step = false;
    for Block { language, name, code, .. } in
        guide::fenced(file).into_iter().filter(|block| block.not_run.is_none())
    {
        match (language.as_str(), name.as_str()) {
            ("sh", "") => steps.push((code, String::new())),
            ("sh", SAMPLE) if file == README => {}
            ("http", "") => {}
            // Compared with each other by `documentation`.
            ("toml", "plans.toml") | ("sh", "environment") => {}
            ("json", "") => {
                assert!(last_was_a_step, "{file}: a result without a command: {code}");
                steps.last_mut().unwrap().1 = code;
            }
            other => panic!("{file}: no test runs the block {other:?}"),
        }
        last_was_a_step = (language.as_str(), name.as_str()) == ("sh", "");
    }
    assert!(!steps.is_empty(), "{file}: the commands are not where they were");
    steps
}

/// Writes the steps as one script. It ends at the first command that fails, and then ends its servers.
fn write_script(steps: &[(String, String)], directory: &Path, address: SocketAddr) {
    let code: Vec<_> = steps.iter().map(|(code, _)| code.as_str()).collect();
    let shown = code.join(&format!("printf '\\n%s\\n' '{END}'\n"));
    assert_eq!(shown.matches(SHOWN_URL).count(), 1, "the address is a variable that is set once");
    let here = shown.replace(SHOWN_URL, &format!("URL=http://{address}\n"));
    let here = here.replace(SHOWN_ENDPOINT, &format!("API={}\n", free_address()));
    let stop = "kill $! ${SERVER:-} ${ENDPOINT:-} 2>/dev/null || true";
    let script = format!("set -eu\ntrap '{stop}' EXIT\n{here}");
    fs::write(directory.join("script"), script).unwrap();
}

/// A shell that finds the program on its path and listens on this address, in a directory of its own.
fn shell(name: &str, directory: &Path, address: SocketAddr) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_tollhouse")).parent().unwrap();
    let mut path = OsString::from(program);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let empty = directory.join("empty");
    fs::create_dir(&empty).unwrap();
    let mut shell = Command::new(name);
    shell.current_dir(empty).env("PATH", path).env("TOLLHOUSE_HTTP__LISTEN", address.to_string());
    shell.env_remove("TOLLHOUSE_ADMIN_KEY").env_remove("TOLLHOUSE_ADMIN_KEY_FILE");
    shell
}

/// All JSON values of a text, without what differs from run to run: ids, secrets, times.
fn shape(text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let read = |value: Result<Value, _>| stable(value.unwrap_or_else(|error| panic!("{error} in:\n{text}")));
    values.map(read).collect()
}

fn stable(value: Value) -> Value {
    match value {
        Value::String(text) => json!(kind(&text).unwrap_or(&text)),
        Value::Array(items) => items.into_iter().map(stable).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| match (name.as_str(), value) {
                ("retry_after_seconds", Value::Number(_)) => (name, json!("<seconds>")),
                (_, value) => (name, stable(value)),
            });
            Value::Object(fields.collect())
        }
        other => other,
    }
}

/// What a text is that differs from run to run.
fn kind(text: &str) -> Option<&'static str> {
    let ids = [("org_", "<org id>"), ("user_", "<user id>"), ("key_", "<key id>")];
    let generated = |(prefix, _): &(&str, _)| text.strip_prefix(*prefix).is_some_and(|rest| rest.len() == 26);
    let id = ids.into_iter().find(generated).map(|(_, kind)| kind);
    let is_time = text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    id.or(is_time.then_some("<time>"))
}

/// Compares what each block printed with what is shown.
fn compare(file: &str, steps: &[(String, String)], output: &str) {
    let outputs: Vec<_> = output.split(END).collect();
    assert_eq!(outputs.len(), steps.len(), "{file}:\n{output}");
    for ((code, shown), real) in steps.iter().zip(outputs) {
        assert_eq!(shape(real), shape(shown), "{file}: the result of\n{code}\nis\n{real}");
    }
}

fn run_as_a_script(file: &str, steps: &[(String, String)]) {
    let place = tempfile::tempdir().unwrap();
    let address = free_address();
    write_script(steps, place.path(), address);
    let output = shell("sh", place.path(), address).arg("../script").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && complaints.is_empty(), "{file}:\n{printed}\n{complaints}");
    compare(file, steps, &printed);
}

#[test]
fn the_readme_works_in_a_script() {
    run_as_a_script(README, &steps(README));
}

#[test]
fn the_quickstart_works_in_a_script() {
    run_as_a_script(QUICKSTART, &steps(QUICKSTART));
}

#[test]
fn the_tour_continues_the_quickstart() {
    let all: Vec<_> = [QUICKSTART, TOUR].into_iter().flat_map(steps).collect();
    run_as_a_script(TOUR, &all);
}

/// Runs the commands of a page with the server and the organization of the quickstart.
fn run_after_the_quickstart_began(file: &str) {
    let mut all: Vec<_> = steps(QUICKSTART).into_iter().take(2).collect();
    all.extend(steps(file));
    run_as_a_script(file, &all);
}

#[test]
fn the_configuration_is_changed_as_its_page_shows() {
    run_after_the_quickstart_began(CONFIGURATION);
}

#[test]
fn the_examples_of_limits_decide_as_their_page_shows() {
    run_after_the_quickstart_began(LIMITS);
}

#[test]
fn keys_are_checked_by_id_and_together_as_their_page_shows() {
    run_after_the_quickstart_began(VERIFICATION);
}

#[test]
fn organizations_move_between_plans_as_the_guide_shows() {
    run_after_the_quickstart_began(PLANS);
}

#[test]
fn a_key_renews_itself_as_its_page_shows() {
    run_after_the_quickstart_began(OWN_KEY);
}

#[test]
fn a_key_is_rotated_without_downtime_as_the_guide_shows() {
    run_after_the_quickstart_began(ROTATE_A_KEY);
}

#[test]
fn a_leaked_key_is_ended_and_its_traces_are_found_as_the_guide_shows() {
    run_after_the_quickstart_began(LEAKED_KEY);
}

#[test]
fn a_person_is_found_and_removed_as_the_guide_shows() {
    run_after_the_quickstart_began(PERSONAL_DATA);
}

/// The guide says of each table whether it holds personal data.
#[test]
fn the_guide_to_personal_data_names_each_table() {
    let page = fs::read_to_string(guide::root().join(PERSONAL_DATA)).unwrap();
    let schema = fs::read_to_string(guide::root().join("schema.sql")).unwrap();
    let (tables, _) = page.split_once("\n## Hand out").unwrap();
    let is_name = |span: &&str| span.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let documented = guide::code_spans(tables).filter(is_name);
    let real = schema.lines().filter_map(|line| line.strip_prefix("CREATE TABLE ")?.split(' ').next());
    assert_same_items("tables", documented, real);
}

/// On a terminal programs behave differently: the server may show a secret, `jq` writes in color.
#[test]
fn the_readme_works_on_a_terminal() {
    let place = tempfile::tempdir().unwrap();
    let steps = steps(README);
    let address = free_address();
    write_script(&steps, place.path(), address);
    let mut bash = shell("bash", place.path(), address);
    bash.arg("../script");
    let mut terminal = spawn_command(bash, Some(30_000)).unwrap();
    let printed = without_colors(&terminal.exp_eof().unwrap());
    assert!(matches!(terminal.process().wait().unwrap(), WaitStatus::Exited(_, 0)), "{printed}");
    compare(README, &steps, &printed);
}

/// Without the escape sequences of colors (`ESC [ … m`).
fn without_colors(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap().to_owned();
    first + &parts.map(|part| part.split_once('m').unwrap_or(("", part)).1).collect::<String>()
}

#[tokio::test]
async fn the_sample_data_is_served_until_ctrl_c() {
    let code = guide::fenced(README).into_iter().find(|block| block.name == SAMPLE).unwrap().code;
    let place = tempfile::tempdir().unwrap();
    let address = free_address();
    let temporary = place.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut bash = shell("bash", place.path(), address);
    bash.args(["-c", &code]).env("TMPDIR", &temporary);
    let mut terminal = spawn_command(bash, Some(30_000)).unwrap();
    for page in ["console", "docs"] {
        let url = format!("http://{address}/{page}/");
        let answered = async {
            loop {
                match reqwest::get(&url).await {
                    Ok(answer) => break answer.status(),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let status = tokio::time::timeout(DEADLINE, answered).await.expect("it never answered");
        assert_eq!(status, 200, "{url}");
    }
    terminal.send_control('c').unwrap();
    let printed = terminal.exp_eof().unwrap();
    for shown in [format!("http://{address}/console/"), format!("http://{address}/docs/"), "toll_".to_owned()]
    {
        assert!(printed.contains(&shown), "no {shown} in:\n{printed}");
    }
    assert!(matches!(terminal.process().wait().unwrap(), WaitStatus::Exited(_, 0)), "{printed}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "the sample data is still there");
}

#[test]
fn the_readme_names_the_defaults_and_the_tools_as_they_are() {
    let text = fs::read_to_string(guide::root().join(README)).unwrap();
    let rust = concat!("Rust ", env!("CARGO_PKG_RUST_VERSION"), " or later");
    assert!(text.contains(rust), "Cargo.toml asks for {rust}");
    let listen = Config::load_defaults().unwrap().http.listen;
    assert_eq!(SHOWN_URL, format!("URL=http://{listen}\n"));
}
