//! Users over two nodes and a real broker, with tokens of a foreign library, brought by a foreign client.

use crate::support::gateway::{Driver, Gateway};
use crate::support::nats::Nats;
use crate::tokens::{Folder, python};

crate::on_both_drivers! {
    a_message_names_its_user_and_leaves_out_a_connection_or_a_user_on_every_node
}

fn a_message_names_its_user_and_leaves_out_a_connection_or_a_user_on_every_node(driver: Driver) {
    let folder = Folder::with_keys("users", driver);
    let broker = Nats::start();
    let config = format!("[auth]\nsecret_file = {:?}", folder.path("secret"));
    let node = || Gateway::on(driver).args(&["--nats-url", &broker.url()]).config(&config).start();
    let nodes = [node(), node()];
    let [first, second] = &nodes;
    let ports = [first.port, second.port, first.admin, broker.address().port()].map(|port| port.to_string());
    assert_eq!(python("user_client.py", &["left-out", &ports.join(","), &folder.path("")]), "all held");
}
