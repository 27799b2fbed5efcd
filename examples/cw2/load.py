"""Loads the results of main.py: python load.py config.yml -e sweep"""

from amlsched.cw2 import cluster_work
from amlsched.cw2.cw_data import cw_pd_logger

if __name__ == "__main__":
    cw = cluster_work.ClusterWork()
    cw.add_logger(cw_pd_logger.PandasLogger())
    df = cw.load()
    steady = df.cw2.filter({"optimizer": {"momentum": 0.0}})
    for (name, r), row in steady.iterrows():
        log = row["PandasLogger"]
        print(name, r, row["optimizer_lr"], len(log), round(log["loss"].iloc[-1], 6))
