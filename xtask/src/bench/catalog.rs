//! The control plane at size: a catalog as after a year of many instances, and how long a server
//! takes to answer about it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::host;

pub(super) const USAGE: &str = "\
usage: cargo xtask bench catalog [OPTION...]

  --instances N   how many (default 10000)
  --points N      restore points of each, one a day (default 365)
  --postgres      in the lab's PostgreSQL instead of SQLite
  --rounds N      how often each question is asked (default 40)
  --sluice FILE   the executable (default: a release build, made now)
  --folder DIR    keep the catalog here, and use the one that is there
";

/// How long the server is watched for its ticks.
const TICKS: Duration = Duration::from_secs(20);

/// What is asked, and how long it may take, in milliseconds; 0 for what has no budget.
const QUESTIONS: [(&str, &str, u32); 31] = [
    ("projects", "projects", 50),
    ("destinations", "destinations", 50),
    ("instances, first part", "instances", 50),
    ("instances, 1000", "instances?limit=1000", 0),
    ("instances, in the middle", "instances?after={instance}", 50),
    ("policies", "policies", 50),
    ("nodes", "nodes", 50),
    ("tasks, newest", "tasks", 50),
    ("tasks, failed", "tasks?state=failed", 50),
    ("tasks, running", "tasks?state=running", 50),
    ("tasks of an instance", "tasks?instance={instance}", 50),
    ("restore points, oldest", "points", 50),
    ("restore points, in the middle", "points?after={point}", 50),
    ("restore points of an instance", "points?instance={instance}", 50),
    ("instances by a pattern of names", "instances?name=*99*", 50),
    ("instances with a tag that few have", "instances?tag=nobody-has-it", 50),
    ("tasks of a kind", "tasks?kind=backup", 50),
    ("tasks of a kind that there is none of", "tasks?kind=restore", 50),
    ("failed tasks of a kind", "tasks?kind=backup&state=failed", 50),
    ("tasks of long ago", "tasks?until_ms=1", 50),
    ("restore points, newest moments", "points?order=newest", 50),
    ("restore points of no time", "points?since_ms=1&until_ms=2", 50),
    ("restore points from a moment on", "points?since_ms=1700000000000", 50),
    ("audit log of an action", "audit?action=policy.create&order=newest", 50),
    ("mounts", "mounts", 50),
    ("audit log", "audit", 50),
    ("missed", "reports/missed", 50),
    ("dashboard", "dashboard", 200),
    ("protection report", "reports/protection", 0),
    ("usage by project, 30 days", "usage", 0),
    ("usage by instance, 30 days", "usage?by=instance", 0),
];

/// What people with other roles ask, and how long that may take, in milliseconds.
const OF_PEOPLE: [(&str, &str); 10] = [
    ("instances", "instances"),
    ("tasks", "tasks"),
    ("failed tasks", "tasks?state=failed"),
    ("restore points", "points"),
    ("restore points, in the middle", "points?after={point}"),
    ("restore points of an instance", "points?instance={instance}"),
    ("tasks of a kind", "tasks?kind=backup"),
    ("restore points, newest moments", "points?order=newest"),
    ("instances by a pattern of names", "instances?name=*99*"),
    ("audit log", "audit"),
];
const OF_PEOPLE_MS: u32 = 50;

struct Options {
    instances: u64,
    points: u64,
    postgres: bool,
    rounds: usize,
    sluice: Option<PathBuf>,
    folder: Option<PathBuf>,
}

/// `cargo xtask bench catalog`.
pub(super) fn command(args: &[&str]) -> Result<()> {
    let mut options = Options {
        instances: 10_000,
        points: 365,
        postgres: false,
        rounds: 40,
        sluice: None,
        folder: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().copied().with_context(|| format!("{arg} needs a value"));
        match *arg {
            "--instances" => options.instances = value()?.parse()?,
            "--points" => options.points = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--postgres" => options.postgres = true,
            "--sluice" => options.sluice = Some(value()?.into()),
            "--folder" => options.folder = Some(value()?.into()),
            other => bail!("{other:?} is unknown\n\n{USAGE}"),
        }
    }
    run(&options)
}

fn run(options: &Options) -> Result<()> {
    let sluice = match &options.sluice {
        Some(sluice) => sluice.clone(),
        None => {
            let words = ["build", "--release", "--locked", "-p", "sluice", "--bin", "sluice"];
            host::run(host::cargo().args(words))?;
            super::target_folder()?.join("release/sluice")
        }
    };
    let made = tempfile::Builder::new().prefix("bench-catalog-").tempdir()?;
    let folder = options.folder.clone().unwrap_or_else(|| made.path().to_owned());
    let state = folder.join("server");
    std::fs::create_dir_all(&state)?;
    let url = match options.postgres {
        true => database(&format!("bench_{}_{}", options.instances, options.points))?,
        false => format!("sqlite:{}", state.join("catalog.sqlite").display()),
    };
    let begun = Instant::now();
    if !folder.join("filled").exists() {
        let numbers = [options.instances, options.points].map(|number| number.to_string());
        let words = ["run", "--locked", "-q", "-p", "sluice-catalog", "--example", "fill", "--"];
        host::run(host::cargo().args(words).arg(&url).args(numbers))?;
        std::fs::write(folder.join("filled"), "")?;
        println!("filled in {:.0} s", begun.elapsed().as_secs_f64());
    }
    let server = Server::start(&sluice, &folder, &url)?;
    measure(&server, options)
}

/// A database of its own in the lab's PostgreSQL.
fn database(name: &str) -> Result<String> {
    let output = Command::new("tests/lab/postgres/postgres-up").output()?;
    let env = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let text = std::fs::read_to_string(&env).with_context(|| format!("no lab file {env:?}"))?;
    let server = text.split('\'').nth(1).context("the lab names no server")?;
    // One that is there is used.
    let mut psql = Command::new("psql");
    psql.args([server, "-qc", &format!("CREATE DATABASE {name}")]).stderr(Stdio::null());
    psql.status().context("cannot run psql")?;
    let (base, _) = server.rsplit_once('/').context("the lab names no database")?;
    Ok(format!("{base}/{name}"))
}

/// A server; killed when dropped.
struct Server {
    child: Child,
    url: String,
    metrics: String,
    curl: PathBuf,
}

impl Server {
    fn start(sluice: &Path, folder: &Path, database: &str) -> Result<Self> {
        let free = || -> Result<u16> {
            Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
        };
        let (port, metrics) = (free()?, free()?);
        let mut child = Command::new(sluice)
            .args(["server", "--json", "--database", database, "--state"])
            .arg(folder.join("server"))
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--metrics", &format!("127.0.0.1:{metrics}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It tells of each slow statement.
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let url = format!("https://127.0.0.1:{port}/api/v1");
        let metrics = format!("http://127.0.0.1:{metrics}/metrics");
        let curl = folder.join("curl");
        let server = Self { child, url, metrics, curl };
        let ready: Value = serde_json::from_str(&line).context("the server does not start")?;
        server.log_in(sluice, folder, &ready)?;
        Ok(server)
    }

    fn log_in(&self, sluice: &Path, folder: &Path, ready: &Value) -> Result<()> {
        std::fs::write(folder.join("password"), "only for the benchmark\n")?;
        let word = |name: &str| ready[name].as_str().unwrap_or_default();
        let mut login = Command::new(sluice);
        login
            .args(["login", word("url"), "--fingerprint", word("fingerprint")])
            .args(["--user", "admin"])
            .env("SLUICE_LOGIN", folder.join("login.json"))
            .env("SLUICE_PASSWORD_FILE", folder.join("password"));
        if ready["setup_token_file"].is_string() {
            login.args(["--setup-token-file", word("setup_token_file")]);
        }
        host::run(&mut login)?;
        let login: Value = serde_json::from_slice(&std::fs::read(folder.join("login.json"))?)?;
        let token = login["token"].as_str().context("the login has no token")?;
        let header = format!("header = \"Authorization: Bearer {token}\"\n");
        Ok(std::fs::write(&self.curl, header)?)
    }

    /// A user with these grants; what curl is told to be that one.
    fn somebody(&self, name: &str, grants: &Value) -> Result<PathBuf> {
        // The catalog may be of an earlier run.
        let login = format!("{}-{}", name.replace(' ', "-"), std::process::id());
        let send = |path: &str, body: &Value| -> Result<Value> {
            let json = "Content-Type: application/json";
            let url = format!("{}/{path}", self.url);
            let told = self.curl(&["-H", json, "--data", &body.to_string(), &url])?;
            Ok(serde_json::from_str(&told)?)
        };
        let user = json!({"login": login, "service": true, "grants": grants});
        let user = send("users", &user)?;
        let id = user["id"].as_str().context("the user has no id")?;
        let token = send(&format!("users/{id}/tokens"), &json!({"name": "bench"}))?;
        let token = token["token"].as_str().context("the user has no token")?;
        let file = self.curl.with_file_name(&login);
        std::fs::write(&file, format!("header = \"Authorization: Bearer {token}\"\n"))?;
        Ok(file)
    }

    fn curl(&self, args: &[&str]) -> Result<String> {
        let mut curl = Command::new("curl");
        let output = curl.args(["-sSfk", "-K"]).arg(&self.curl).args(args).output()?;
        if !output.status.success() {
            bail!("{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How long answers took, in milliseconds, in order; over one connection, as programs have.
    fn times(&self, who: &Path, path: &str, rounds: usize) -> Result<Vec<f64>> {
        let url = format!("{}/{path}", self.url);
        let mut args = vec!["-w", "%{stderr}%{time_total}\n"];
        // The first one also makes the connection, and counts for nothing.
        for _ in 0..=rounds {
            args.extend(["-o", "/dev/null", &url]);
        }
        let mut curl = Command::new("curl");
        let output = curl.args(["-sfk", "-K"]).arg(who).args(&args).output()?;
        if !output.status.success() {
            // Asked once more, for the reason.
            self.curl(&[&url])?;
            bail!("{path} is not always answered");
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut times: Vec<f64> = text
            .lines()
            .skip(1)
            .filter_map(|line| Some(line.trim().parse::<f64>().ok()? * 1000.0))
            .collect();
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: f64 = line.context("no VmHWM")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn part(times: &[f64], of: f64) -> f64 {
    let at = (times.len() as f64 * of).ceil() as usize;
    times.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Who asks beside the administrator, and what they may see.
fn people(instances: &[Value]) -> Vec<(String, Value)> {
    let of_projects = |many: usize| -> Value {
        let projects: BTreeSet<&str> =
            instances.iter().filter_map(|one| one["project"].as_str()).collect();
        // The one in the middle of the list, which is asked for by its id, is among them.
        let own = instances.get(500).or(instances.first());
        let own = own.and_then(|one| one["project"].as_str());
        let others = projects.into_iter().filter(|id| Some(*id) != own);
        let all = own.into_iter().chain(others).take(many);
        all.map(|id| json!({"role": "admin", "project": id})).collect()
    };
    let of_instances = |many: usize| -> Value {
        let on = |one: &Value| json!({"kind": "instance", "id": one["id"]});
        let grant = |one: &Value| json!({"role": "admin", "resource": on(one)});
        instances.iter().skip(500).take(many).map(grant).collect()
    };
    vec![
        ("a role in one project".to_owned(), of_projects(1)),
        ("roles in three projects".to_owned(), of_projects(3)),
        ("a role on one instance".to_owned(), of_instances(1)),
        ("roles on 300 instances".to_owned(), of_instances(300)),
    ]
}

fn measure(server: &Server, options: &Options) -> Result<()> {
    let instances: Value =
        serde_json::from_str(&server.curl(&[&format!("{}/instances?limit=1000", server.url)])?)?;
    let middle = instances["items"][500]["id"].as_str().or(instances["items"][0]["id"].as_str());
    let middle = middle.context("there is no instance")?;
    // Ids begin with the time: half of what there is comes before this one.
    let points: Value = serde_json::from_str(
        &server.curl(&[&format!("{}/points?instance={middle}&limit=1000", server.url)])?,
    )?;
    let all = points["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let point = all.get(all.len() / 2).context("there is no restore point")?;
    let point = point["id"].as_str().context("it has no id")?;
    println!("| asked for | p50 ms | p95 ms | budget |\n|---|---|---|---|");
    let mut over = Vec::new();
    let mut ask = |who: &Path, name: &str, path: &str, budget: u32| -> Result<()> {
        let path = path.replace("{instance}", middle).replace("{point}", point);
        let times = server.times(who, &path, options.rounds)?;
        let (half, most) = (part(&times, 0.5), part(&times, 0.95));
        let told = if budget > 0 { format!("{budget} ms") } else { "none".to_owned() };
        println!("| {name} | {half:.1} | {most:.1} | {told} |");
        if budget > 0 && most > f64::from(budget) {
            over.push(name.to_owned());
        }
        Ok(())
    };
    for (name, path, budget) in QUESTIONS {
        ask(&server.curl, name, path, budget)?;
    }
    for (login, grants) in people(instances["items"].as_array().context("no instances")?) {
        let who = server.somebody(&login, &grants)?;
        for (name, path) in OF_PEOPLE {
            ask(&who, &format!("{login}: {name}"), path, OF_PEOPLE_MS)?;
        }
    }
    std::thread::sleep(TICKS);
    let metrics = server.curl(&[&server.metrics])?;
    let number = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    };
    let (sum, many) = (number("sluice_tick_seconds_sum "), number("sluice_tick_seconds_count "));
    let slow = many - number("sluice_tick_seconds_bucket{le=\"1\"} ");
    println!("| a look of the scheduler, mean | {:.1} | | 1000 ms |", sum / many.max(1.0) * 1e3);
    println!("| looks longer than 1 s | {slow} of {many} | | 0 |");
    println!("| metrics | {:.1} | | none |", number("sluice_scrape_seconds ") * 1e3);
    let memory = server.memory()?;
    println!("| most memory of the server, MiB | {memory:.0} | | 300 |");
    if memory > 300.0 {
        over.push("memory".to_owned());
    }
    if !over.is_empty() {
        bail!("over budget: {}", over.join(", "));
    }
    Ok(())
}
