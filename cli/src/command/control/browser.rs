//! Logging in with a browser: on this machine, which brings the answer back to a port here, or
//! elsewhere, with a code that is typed there.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_node_api::{Client, ClientError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::word;
use crate::error::advise;
use crate::output::note;

/// How long the server waits for an answer, too.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a browser may take to send its request.
const ONE: Duration = Duration::from_secs(10);
/// The most that the head of a request may have, in bytes.
const LARGEST: usize = 16 << 10;
const PATH: &str = "/callback";

/// A session by a browser on this machine.
pub(super) async fn here(client: &Client, provider: &str, port: u16) -> Result<Value> {
    let socket = TcpListener::bind(("127.0.0.1", port)).await;
    let socket = socket.with_context(|| format!("cannot listen on port {port} of 127.0.0.1"))?;
    let redirect_uri = format!("http://127.0.0.1:{}{PATH}", socket.local_addr()?.port());
    let body = json!({"provider": provider, "redirect_uri": redirect_uri});
    let begun: Value = client.post("/api/v1/oidc-logins", &body).await?;
    let url = word(&begun, "url");
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let state = parameter(query, "state").unwrap_or_default();
    note(format_args!("open this in a browser on this machine to log in:\n\n{url}\n"));
    let waited = tokio::time::timeout(PATIENCE, answer(&socket, &state)).await;
    let (mut stream, query) = waited.map_err(|_| {
        let text = "nobody has logged in for ten minutes";
        advise("login", text, "run the command again")
    })??;
    let ended = finish(client, &begun, &query).await;
    let text = match &ended {
        Ok(_) => "You are logged in. You can close this window.",
        Err(_) => "You are not logged in: see what the command says.",
    };
    // Who has closed the window needs no answer.
    let _ = reply(&mut stream, "200 OK", text).await;
    ended
}

async fn finish(client: &Client, begun: &Value, query: &str) -> Result<Value> {
    if let Some(error) = parameter(query, "error") {
        let more = parameter(query, "error_description").unwrap_or_default();
        let all: String = format!("{error} {more}").chars().filter(|c| !c.is_control()).collect();
        let text = format!("the identity provider says: {}", all.trim());
        return Err(advise("login", text, "run the command again"));
    }
    let (state, code) = (parameter(query, "state"), parameter(query, "code"));
    let body = json!({"login": begun["login"], "state": state, "code": code,
        "iss": parameter(query, "iss")});
    Ok(client.post("/api/v1/oidc-logins/finish", &body).await?)
}

/// The browser's request that answers this login; others that come by are told that nothing is
/// here.
async fn answer(socket: &TcpListener, state: &str) -> Result<(TcpStream, String)> {
    loop {
        let (mut stream, _) = socket.accept().await?;
        let asked = tokio::time::timeout(ONE, request(&mut stream)).await;
        let query = asked.ok().flatten().and_then(|head| {
            let target = head.strip_prefix("GET ")?.split(' ').next()?.to_owned();
            let query = target.strip_prefix(PATH)?.strip_prefix('?')?.to_owned();
            (parameter(&query, "state").as_deref() == Some(state)).then_some(query)
        });
        match query {
            Some(query) => return Ok((stream, query)),
            None => drop(reply(&mut stream, "404 Not Found", "Nothing is here.").await),
        }
    }
}

/// The first line of a request, when its head has come.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > LARGEST || stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(head).ok()?;
    text.lines().next().map(str::to_owned)
}

async fn reply(stream: &mut TcpStream, status: &str, text: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n",
        text.len() + 1
    );
    stream.write_all(format!("{head}{text}\n").as_bytes()).await?;
    stream.shutdown().await
}

/// A session by a browser elsewhere.
pub(super) async fn elsewhere(client: &Client, provider: &str) -> Result<Value> {
    let body = json!({ "provider": provider });
    let begun: Value = client.post("/api/v1/device-logins", &body).await?;
    let (place, code) = (word(&begun, "verification_uri"), word(&begun, "user_code"));
    note(format_args!("open {place} in any browser, and type this code there: {code}"));
    let pause = Duration::from_secs(begun["interval"].as_u64().unwrap_or(5).clamp(1, 60));
    let end = json!({"login": begun["login"]});
    loop {
        tokio::time::sleep(pause).await;
        match client.post("/api/v1/device-logins/finish", &end).await {
            Err(ClientError::Refused { code, .. }) if code == "authorization-pending" => {}
            ended => return Ok(ended?),
        }
    }
}

/// A parameter of a URL.
fn parameter(query: &str, name: &str) -> Option<String> {
    let query = query.split('#').next()?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(own, _)| *own == name).and_then(|(_, value)| plain(value))
}

/// A text without the escapes of URLs.
fn plain(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        match (first, more) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_browsers_send_them() {
        let query = "state=a%2Fb&code=x+y%3D&iss=http%3A%2F%2F127.0.0.1%3A9&odd";
        let read = |name| parameter(query, name);
        assert_eq!((read("state"), read("code")), (Some("a/b".into()), Some("x y=".into())));
        assert_eq!(read("iss").as_deref(), Some("http://127.0.0.1:9"));
        assert_eq!((read("odd"), read("none")), (None, None));
        for bad in ["%", "%2", "%+1", "%zz", "%ff"] {
            assert_eq!(plain(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn only_the_answer_to_this_login_is_taken() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asking = tokio::spawn(async move {
            let mut told = Vec::new();
            let heads = [
                "GET /favicon.ico HTTP/1.1",
                "GET /callback?code=c&state=other HTTP/1.1",
                "POST /callback?code=c&state=mine HTTP/1.1",
                "\u{1}",
            ];
            for head in heads {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                told.push(text.contains("404"));
            }
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /callback?code=c&state=mine HTTP/1.1\r\n\r\n").await.unwrap();
            told
        });
        let (_, query) = answer(&socket, "mine").await.unwrap();
        assert_eq!(query, "code=c&state=mine");
        assert_eq!(asking.await.unwrap(), [true; 4]);
    }
}
