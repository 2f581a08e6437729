//! tokio-tungstenite.

use futures_util::{SinkExt, StreamExt};

use crate::{Ended, TcpStream};

/// Sends every message back.
pub async fn echo(stream: TcpStream) -> Result<(), Ended> {
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
