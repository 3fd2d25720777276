#![no_main]

hpc_trainer_fuzz::target!("settings_form");
