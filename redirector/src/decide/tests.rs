//! Whole outages in virtual time, and properties over random schedules.

mod addresses;
mod combining;
mod damping;
mod detection;
mod failover;
mod first_choice;
mod health;
mod hooks;
mod operator;
mod properties;
mod record;
mod reload;
mod rest;
mod resume;
mod suspicion;
mod world;
