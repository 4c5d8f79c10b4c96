"""Keys of the vendor's build specs that have no meaning on this target.

They are accepted, and listed once as without effect. Their names come from a census of the
vendor's public specs; anything else that we do not know is an error.
"""

from __future__ import annotations

from compiler.yaml_source import KeyPath

NO_EFFECT: dict[KeyPath, frozenset[str]] = {
    (): frozenset({"log", "version"}),
    ("frontend",): frozenset({"quantize"}),
    ("backend",): frozenset({"merge_params", "remove_params", "dynamic_params"}),
    ("backend", "compile"): frozenset(
        {
            "cluster_mode",
            "data_transport_mode",
            "data_type",
            "enable_float_to_half",
            "enable_graph_partition",
            "mem_inplace",
            "opt_level",
            "output_ddr",
            "output_layout",
            "split_convergence_points",
            "stream_mode",
            "switch_lhs_rhs",
        }
    ),
    ("backend", "quantize"): frozenset(
        {
            "calibrate_chunk_by",
            "ops_usingfp",
            "output_ddr",
            "overflow_adaptive",
            "quantize_dsp_ops",
            "quantize_mode",
            "quantize_operators",
            "requant_suppress",
            "skip_matmul_layers",
        }
    ),
    ("workspace",): frozenset(
        {"enable_ir", "env_recheck", "pyenv", "save_log", "work_dir", "workers"}
    ),
}
