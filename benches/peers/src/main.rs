//! `peers tokio-tungstenite|fastwebsockets|sockudo-ws PORT`: an echo server on one of these crates, on one thread, with
//! TCP_NODELAY, a task for each connection, and the crate's own defaults otherwise.

use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use tokio::net::{TcpListener, TcpStream};

mod fast;
mod sockudo;
mod tungstenite;

/// Whatever ends a connection.
type Ended = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(port)) = (arguments.next(), arguments.next().and_then(|port| port.parse().ok())) else {
        eprintln!("usage: peers tokio-tungstenite|fastwebsockets|sockudo-ws PORT");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(serve(&name, port)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(name: &str, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        match name {
            "tokio-tungstenite" => spawn(tungstenite::echo(stream)),
            "fastwebsockets" => spawn(fast::echo(stream)),
            "sockudo-ws" => spawn(sockudo::echo(stream)),
            other => return Err(io::Error::other(format!("{other} is unknown"))),
        }
    }
}

fn spawn(connection: impl Future<Output = Result<(), Ended>> + Send + 'static) {
    tokio::spawn(async move {
        // A client that goes away ends its task, and nothing else.
        let _ = connection.await;
    });
}
