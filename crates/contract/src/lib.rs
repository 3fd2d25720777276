//! What is said over RabbitMQ: the messages, and the connection that carries them.

pub mod broker;
pub mod wire;
