"""`cw2.cw_config.cw_conf_keys`: names of the keys of a config."""

# ruff: noqa: N816  (the names of cw2)

SLURM, DEFAULT = "slurm", "default"
NAME, PATH, LOG_PATH = "name", "path", "log_path"
IMPORT_PATH, IMPORT_EXP = "import_path", "import_exp"
REPS, REPS_PARALL, REPS_P_JOB = "repetitions", "reps_in_parallel", "reps_per_job"
PARAMS, GRID, LIST, ABLATIVE = "params", "grid", "list", "ablative"
i_BASIC_PATH, i_EXP_NAME, i_NEST_DIR, i_DEBUG_FLAG = "_basic_path", "_experiment_name", "_nested_dir", "_debug"
i_REP_IDX, i_REP_LOG_PATH = "_rep_idx", "_rep_log_path"
i_IMPORT_PATH_ARCHIVE, i_IMPORT_EXP_ARCHIVE = "_import_path_archive", "_import_exp_archive"
i_CPU_CORES = "cpu_cores"
