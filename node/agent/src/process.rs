//! One process of `sluice`: its lines, and its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use sluice_node_api::{Finished, LogEntry, Outcome};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

/// The most that a command may print on its standard output, in bytes.
const LARGEST_OUTPUT: usize = 16 << 20;
/// A line of its log is not longer than this, in bytes.
const LONGEST_LINE: u64 = 64 << 10;
/// Lines that wait for the next report; a command that prints more waits for it too.
const LINES: usize = 256;

/// What a process says while it runs.
pub(crate) enum Said {
    /// A line of progress.
    Progress(Value),
    /// A line of its log.
    Log(LogEntry),
}

/// What happens to a process.
pub(crate) enum Event {
    /// It says something.
    Said(Said),
    /// It has ended; how is not always known.
    Ended(Option<ExitStatus>),
}

/// A process that runs.
pub(crate) struct Process {
    child: Child,
    /// The leash.
    stdin: Option<ChildStdin>,
    output: tokio::task::JoinHandle<Printed>,
    said: mpsc::Receiver<Said>,
}

/// Whether a server may set a variable: those that open a store may, and nothing that changes what
/// is run, such as the loader's, or files in which commands may be named.
pub(crate) fn is_for_tasks(name: &str) -> bool {
    const FAMILIES: [&str; 6] = ["SLUICE_", "AWS_", "AZURE_", "GOOGLE_", "OS_", "ST_"];
    const FILES: [&str; 2] = ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"];
    FAMILIES.iter().any(|family| name.starts_with(family)) && !FILES.contains(&name)
}

impl Process {
    /// Starts `sluice` with these words and, of the environment, nothing but these variables.
    pub(crate) fn start(
        executable: &Path,
        folder: &Path,
        words: &[String],
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        Self::start_as((executable, folder), words, environment, &BTreeMap::new())
    }

    /// The same, with variables that are for this node to say.
    pub(crate) fn start_as(
        (executable, folder): (&Path, &Path),
        words: &[String],
        environment: &BTreeMap<String, String>,
        own: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        if let Some(name) = environment.keys().find(|name| !is_for_tasks(name)) {
            return Err(format!(
                "{name} is no variable for a task; see the destination's settings"
            ));
        }
        let mut command = Command::new(executable);
        command.args(["--json"]).args(words).current_dir(folder).env_clear();
        for name in ["PATH", "HOME", "TZ", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.envs(environment).envs(own).env("SLUICE_LEASH", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for the agent.
        command.process_group(0).kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", executable.display()))?;
        let (sender, said) = mpsc::channel(LINES);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let stdin = child.stdin.take();
        if let Some(stderr) = stderr {
            tokio::spawn(read_log(BufReader::new(stderr), sender.clone()));
        }
        let output = tokio::spawn(async move {
            match stdout {
                Some(stdout) => read_output(BufReader::new(stdout), sender).await,
                None => Printed::default(),
            }
        });
        Ok(Self { child, stdin, output, said })
    }

    /// What it says next, or its end. May be cancelled.
    pub(crate) async fn next(&mut self) -> Event {
        match self.said.recv().await {
            Some(said) => Event::Said(said),
            None => Event::Ended(self.child.wait().await.ok()),
        }
    }

    /// Tells it how many bytes a backup may store from now on. Whoever has ended need not know.
    pub(crate) async fn allow(&mut self, bytes: u64) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(format!("allowance {bytes}\n").as_bytes()).await;
        }
    }

    /// Asks it to end, and kills it when that takes longer than `patience`.
    pub(crate) async fn stop(&mut self, patience: Duration) {
        self.stdin = None;
        let killed = tokio::time::timeout(patience, async {
            // Whoever listens to nobody must not fill the pipes.
            loop {
                tokio::select! {
                    _ = self.child.wait() => return,
                    said = self.said.recv() => if said.is_none() {
                        let _ = self.child.wait().await;
                        return;
                    },
                }
            }
        });
        if killed.await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// What came of it, once it has ended with `status`.
    pub(crate) async fn finished(self, status: Option<ExitStatus>) -> Finished {
        let printed = self.output.await.unwrap_or_default();
        let document = last_document(&printed.text);
        let error = &document["error"];
        let mut message = error["message"].as_str().unwrap_or_default().to_owned();
        for cause in error["causes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            message = format!("{message}: {cause}");
        }
        let (outcome, retryable) = match status.and_then(|status| status.code()) {
            Some(0) => (Outcome::Succeeded, false),
            Some(3) => (Outcome::Warnings, false),
            // Wrong usage and damaged data stay what they are.
            Some(2 | 4) => (Outcome::Failed, false),
            // Somebody must raise it.
            _ if error["kind"] == "quota" => (Outcome::Failed, false),
            _ => (Outcome::Failed, true),
        };
        if outcome == Outcome::Failed && message.is_empty() {
            let ended = status.map_or("was killed".to_owned(), |s| format!("ended with {s}"));
            message = format!("the process of the task {ended}");
        }
        if printed.cut && outcome != Outcome::Failed {
            let message = "what it did is done, but it printed more than can be read".to_owned();
            let document = Value::Null;
            return Finished { outcome: Outcome::Failed, document, message, retryable: false };
        }
        Finished { outcome, document, message, retryable }
    }
}

/// What a process has printed.
#[derive(Debug, Default)]
struct Printed {
    text: String,
    /// Whether there was more.
    cut: bool,
}

/// Lines of standard error are the log.
async fn read_log(mut from: impl AsyncBufReadExt + Unpin, to: mpsc::Sender<Said>) {
    loop {
        let mut line = Vec::new();
        let read = (&mut from).take(LONGEST_LINE).read_until(b'\n', &mut line).await;
        if read.is_err() || line.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let level = match line.split(':').next() {
            Some("error") => "error",
            Some("warning") => "warning",
            _ => "info",
        };
        let entry = LogEntry { level: level.into(), line };
        if to.send(Said::Log(entry)).await.is_err() {
            return;
        }
    }
}

/// Lines of progress are told, everything else is the document.
async fn read_output(mut from: impl AsyncBufReadExt + Unpin, to: mpsc::Sender<Said>) -> Printed {
    let mut printed = Printed::default();
    loop {
        let mut line = Vec::new();
        let read = (&mut from).take(LARGEST_OUTPUT as u64).read_until(b'\n', &mut line).await;
        if read.is_err() || line.is_empty() {
            return printed;
        }
        let value = serde_json::from_slice::<Value>(&line).ok();
        if let Some(value) = value.filter(|value| value["type"] == "progress") {
            // A line that finds no room is followed by another.
            let _ = to.try_send(Said::Progress(value));
        } else if printed.text.len() + line.len() <= LARGEST_OUTPUT {
            printed.text.push_str(&String::from_utf8_lossy(&line));
        } else {
            printed.cut = true;
        }
    }
}

/// The last of the documents that were printed one after the other.
fn last_document(text: &str) -> Value {
    let documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    documents.map_while(Result::ok).last().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_document_counts() {
        assert_eq!(last_document("{\"a\": 1}\n{\n  \"b\": 2\n}\n")["b"], 2);
        assert_eq!(last_document(""), Value::Null);
        assert_eq!(last_document("rubbish"), Value::Null);
    }

    #[tokio::test]
    async fn a_document_that_was_cut_off_is_no_success() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("program");
        std::fs::write(&script, "printf '{\"all\": \"%017000000d\"}' 1\n").unwrap();
        let words = [script.to_str().unwrap().to_owned()];
        let mut process = start_shell(&folder, &words);
        let status = loop {
            if let Event::Ended(status) = process.next().await {
                break status;
            }
        };
        let finished = process.finished(status).await;
        assert_eq!((finished.outcome, finished.retryable), (Outcome::Failed, false));
        assert!(finished.message.contains("more than can be read"), "{}", finished.message);
    }

    #[test]
    fn a_server_sets_nothing_that_changes_what_is_run() {
        assert!(is_for_tasks("AWS_ACCESS_KEY_ID") && is_for_tasks("SLUICE_PASSPHRASE"));
        for name in ["LD_PRELOAD", "PATH", "AWS_CONFIG_FILE", ""] {
            assert!(!is_for_tasks(name), "{name}");
            let environment = [(name.to_owned(), "x".to_owned())].into();
            let refused = Process::start(Path::new("/bin/true"), Path::new("/"), &[], &environment);
            assert!(refused.err().is_some_and(|why| why.contains("no variable for a task")));
        }
    }

    #[tokio::test]
    async fn a_process_tells_progress_log_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("program");
        let text = "#!/bin/sh\necho '{\"type\":\"progress\",\"done\":5}'\n\
                    echo 'warning: odd' >&2\necho '{\"answer\":42}'\nexit 3\n";
        std::fs::write(&script, text).unwrap();
        let words = [script.to_str().unwrap().to_owned()];
        // The shell is the executable here; `--json` is what it is called with first.
        let mut process = start_shell(&folder, &words);
        let (mut done, mut log) = (0, String::new());
        let status = loop {
            match process.next().await {
                Event::Said(Said::Progress(value)) => done = value["done"].as_u64().unwrap(),
                Event::Said(Said::Log(entry)) => log = format!("{}/{}", entry.level, entry.line),
                Event::Ended(status) => break status,
            }
        };
        let finished = process.finished(status).await;
        assert_eq!((done, log.as_str()), (5, "warning/warning: odd"));
        assert_eq!(
            (finished.outcome, &finished.document["answer"]),
            (Outcome::Warnings, &42.into())
        );
    }

    #[tokio::test]
    async fn what_a_node_says_goes_before_what_a_server_and_this_machine_say() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("shell");
        let text =
            "#!/bin/sh\nprintf '{\"home\":\"%s\",\"gcs\":\"%s\"}' $HOME $SLUICE_GCS_METADATA\n";
        std::fs::write(&script, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&script, mode).unwrap();
        let of = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let (told, own) = (
            of(&[("SLUICE_GCS_METADATA", "1")]),
            of(&[("SLUICE_GCS_METADATA", "0"), ("HOME", "/h")]),
        );
        let mut process = Process::start_as((&script, folder.path()), &[], &told, &own).unwrap();
        let status = loop {
            if let Event::Ended(status) = process.next().await {
                break status;
            }
        };
        let document = process.finished(status).await.document;
        assert_eq!((&document["home"], &document["gcs"]), (&"/h".into(), &"0".into()));
    }

    fn start_shell(folder: &tempfile::TempDir, words: &[String]) -> Process {
        let shell = folder.path().join("shell");
        std::fs::write(&shell, "#!/bin/sh\nshift\nexec /bin/sh \"$@\"\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&shell, mode).unwrap();
        Process::start(&shell, folder.path(), words, &BTreeMap::new()).unwrap()
    }
}
