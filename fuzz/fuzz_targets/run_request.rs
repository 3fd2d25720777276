#![no_main]

hpc_trainer_fuzz::target!("run_request");
