"""How the GPUs of a cluster are joined, and what it takes to send bytes between them."""

from sdsim.network.network import Network
from sdsim.network.presets import Preset, check_network_name, load_network, network_names

__all__ = ["Network", "Preset", "check_network_name", "load_network", "network_names"]
