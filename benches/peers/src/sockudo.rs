//! sockudo-ws: its own handshake, then its stream.

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::protocol::Message;
use sockudo_ws::{Config, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Ended, TcpStream};

/// Sends every message back.
pub async fn echo(mut stream: TcpStream) -> Result<(), Ended> {
    let mut head = BytesMut::with_capacity(1024);
    let accept = loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        if let Some((request, _)) = parse_request(&head)? {
            break generate_accept_key(request.key);
        }
    };
    stream.write_all(&build_response(&accept, None, None)).await?;
    let mut socket = WebSocketStream::server(stream, Config::default());
    while let Some(message) = socket.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(())
}
