"""The rows of docs/results: their names, and the commands that make them."""

FOLDER = "TFEBM_DATA"
"""The environment variable that names the folder of data that do not come with the package."""


def rows() -> dict[str, str]:
    """Names to commands, without "python" and the folders."""
    table = {
        "latent_ebm_mnist5k": "train/latent_ebm.py",
        "latent_ebm_mnist5k_no_encoder": "train/latent_ebm.py --preset no_encoder",
        "flow_ebm_eight_gaussians": "train/flow_ebm.py",
        "flow_ebm_twenty_five_gaussians": "train/flow_ebm.py --dataset twenty_five_gaussians "
        "--transitions 2 --epochs 20",
        "flow_ebm_eight_gaussians_realnvp_2": "train/flow_ebm.py --flow realnvp --couplings 2 "
        "--transitions 2 --epochs 20",
        "flow_ebm_twenty_five_gaussians_realnvp_2": "train/flow_ebm.py --dataset "
        "twenty_five_gaussians --flow realnvp --couplings 2 --transitions 2 --epochs 20",
        "flow_ebm_mnist5k": "train/flow_ebm.py --dataset mnist5k",
        "short_run_mnist5k": "-m benchmarks compare_inference",
        "anomaly_mnist5k_9": "train/anomaly.py --held-out 9",
    }
    for seed in range(3):
        table[f"short_run_criteria_{seed}"] = (
            f"-m benchmarks compare_inference --seeds 1 --first-seed {seed} --validation 500 "
            "--posterior-steps 10 --tune-every 2 --variants short_run ksd kl fixed"
        )
    shared = "--epochs 2 --halve-at 1,1.5,1.8 --tune-every 1 --kl-warmup 0.4 --variants"
    for name, size in {"mnist": 100, "cifar10_subset": 50}.items():
        for layers, variants in {
            "one_layer": "latent_ebm single_layer single_layer_vae",
            "three_layers": "short_run vae ladder_vae",
        }.items():
            for seed in range(3):
                table[f"side_by_side_{name}_{layers}_{seed}"] = (
                    f"-m benchmarks compare_inference --seeds 1 --first-seed {seed} "
                    f"--dataset ${FOLDER}/{name}.npz --batch-size {size} {shared} {variants}"
                )
    decays = "--learning-rate-decay 0.75 --energy-learning-rate-decay 0.75"
    for digit, seed in ((1, 0), (4, 0), (5, 0), (7, 0), (9, 0), (9, 1), (9, 2)):
        table[f"anomaly_mnist_{digit}_{seed}"] = (
            f"train/anomaly.py --held-out {digit} --dataset ${FOLDER}/mnist.npz --batch-size 100 "
            f"--epochs 12 {decays} --seed {seed}"
        )
    table["anomaly_mnist_9_four_chains"] = f"{table['anomaly_mnist_9_0']} --score-chains 4"
    for model, epochs in {
        "short_run": "--epochs 12",
        "vae": "--epochs 12",
        "latent_ebm_layers": "--epochs 6 --score-epochs 3",
    }.items():
        table[f"anomaly_mnist_9_{model}"] = (
            f"train/anomaly.py --held-out 9 --model {model} --dataset ${FOLDER}/mnist.npz "
            f"--batch-size 100 {epochs} {decays}"
        )
    for name, flags in {
        "lm": "--model lm --evidence-examples 500",
        "vae": "--model vae --evidence-examples 500",
        "short_run": "--model short_run --evidence-examples 500",
        "latent_ebm": "--model latent_ebm --evidence-examples 500",
        "latent_ebm_no_l2": "--model latent_ebm --energy-l2 0",
    }.items():
        table[f"text_grammar_{name}"] = f"train/text.py {flags}"
    shared = f"train/text.py --preset ptb --dataset ${FOLDER}/ptb --learning-rate 2e-3 "
    shared += "--noise-warmup-epochs 1 --evidence-examples 200 --evidence-chains 2"
    for name, flags in {
        "lm": "--model lm --steps 5290",
        "vae": "--model vae --kl-warmup 1 --steps 3100",
        "vae_free_bits": "--model vae --free-bits 0.25 --steps 3100",
        "short_run": "--noise-scale 0.1 --posterior-steps 6 --steps 1500",
        "latent_ebm": "--model latent_ebm --noise-scale 0 --posterior-steps 6 --steps 1320",
    }.items():
        table[f"text_ptb_{name}"] = f"{shared} {flags}"
    shared = f"train/text.py --preset yelp --dataset ${FOLDER}/yelp "
    shared += f"--unlabelled ${FOLDER}/yelp/extra.txt.gz --vocabulary ${FOLDER}/yelp/vocab.txt.gz "
    shared += "--hidden-size 256 --batch-size 64 --prior-warmup 0 --learning-rate 2e-3 "
    shared += "--evidence-examples 0 --au-examples 200"
    short_run = "--posterior-steps 6 --step-sizes paper --noise-scale 0.1 --noise-warmup-epochs 0"
    some, whole = "--task-examples 1000 --chains 10", "--task-examples 0 --chains 20"
    for name, flags in {
        "short_run": f"{short_run} --steps 1000 --task classify {some}",
        "vae": f"--model vae --steps 3100 --task classify {some}",
        "clusters_short_run": f"{short_run} --steps 1000 --task cluster {some}",
        "clusters_vae": f"--model vae --steps 3100 --task cluster {whole}",
    }.items():
        table[f"text_yelp_{name}"] = f"{shared} {flags}"
    return table
