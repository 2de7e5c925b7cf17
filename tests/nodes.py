"""A Ray of two nodes on this machine, each with a GPU as it says: a process of its own, which others join.

python tests/nodes.py        says its address; a line "end" on its standard input ends one node at once, the end of the input all
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    node = {"num_cpus": 1, "num_gpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("ended", flush=True)
    cluster.shutdown()
