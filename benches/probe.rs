use candle_core::{Device, Tensor};
use hpc_trainer::train::*;
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (size, steps, threads) = (a[0], a[1], a[2]);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let d = Device::Cpu;
    let n = Network::new(&initial_weights(1).unwrap(), &d).unwrap();
    let mut adam = Adam::new(n.parameters(), 1e-4).unwrap();
    let x = Tensor::rand(0f32, 1., (16, size, size, 3), &d).unwrap();
    let y = x.mean_keepdim(3).unwrap().gt(0.5).unwrap().to_dtype(candle_core::DType::F32).unwrap();
    for s in 0..steps {
        let (t, c) = (std::time::Instant::now(), cpu());
        let step = n.loss_and_gradients(&x, &y).unwrap();
        adam.step(n.parameters(), &step.gradients).unwrap();
        println!("step {s} {:.3} s cpu {:.3} loss {:.4}", t.elapsed().as_secs_f64(), cpu() - c, step.loss);
    }
    let (t, c) = (std::time::Instant::now(), cpu());
    n.forward_logits(&x).unwrap();
    println!("forward {:.3} cpu {:.3}", t.elapsed().as_secs_f64(), cpu() - c);
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find(|l| l.starts_with("VmHWM"))
            .unwrap()
    );
}
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(") ").next().unwrap().split(' ').collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
