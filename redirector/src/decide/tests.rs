//! Whole outages in virtual time, and properties over random schedules.

mod addresses;
mod breaker;
mod combining;
mod damping;
mod detection;
mod drains;
mod failover;
mod first_choice;
mod health;
mod hooks;
mod noise;
mod operator;
mod properties;
mod record;
mod reload;
mod rest;
mod resume;
mod signals;
mod spread;
mod suspicion;
mod world;
