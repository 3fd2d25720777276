#![no_main]

hpc_trainer_fuzz::target!("login_form");
