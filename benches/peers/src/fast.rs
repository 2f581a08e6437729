//! fastwebsockets, upgraded through hyper as its documentation does.

use bytes::Bytes;
use fastwebsockets::{FragmentCollector, OpCode, upgrade};
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;

use crate::{Ended, TcpStream};

/// Sends every message back.
pub async fn echo(stream: TcpStream) -> Result<(), Ended> {
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(accept));
    Ok(connection.with_upgrades().await?)
}

async fn accept(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Ended> {
    let (response, upgraded) = upgrade::upgrade(&mut request)?;
    crate::spawn(async move {
        let mut socket = FragmentCollector::new(upgraded.await?);
        loop {
            let frame = socket.read_frame().await?;
            match frame.opcode {
                OpCode::Close => return Ok(()),
                OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
                _ => {}
            }
        }
    });
    Ok(response)
}
