"""A simulated fleet: many homes on one machine, recorded, enrolled and pushed by the real client.

Only the work is made up. Every event goes through the real journal or emitter, every batch,
credential and policy over the real wire. Run it: ``python -m agent_client.simulation --help``.
"""
