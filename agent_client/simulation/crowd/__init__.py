"""A crowd: thousands of simulated installs in one process, on the real wire, without a file.

Where ``simulation`` runs the real client on homes of its own, the crowd keeps an install in memory
and speaks the wire itself, so that ten thousand fit on one small machine. What the installs do
comes from the same script. Run it: ``python -m agent_client.simulation.crowd --help``.
"""
