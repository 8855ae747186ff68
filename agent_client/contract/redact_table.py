"""The whole rule table of the secret scrubber, in rank order.

Where two rules meet on one text, the earlier one names the replacement: vendors before shapes.
"""

from __future__ import annotations

from agent_client.contract.redact_prose import PROSE_RULES
from agent_client.contract.redact_rules import Rule, vendor_rules
from agent_client.contract.redact_shapes import SHAPE_RULES
from agent_client.contract.redact_vendors_cloud import CLOUD_ROWS
from agent_client.contract.redact_vendors_dev import AI_ROWS, CODE_ROWS
from agent_client.contract.redact_vendors_saas import MESSAGE_ROWS, PAYMENT_ROWS
from agent_client.contract.redact_vendors_tail import EXACT_RULES, TAIL_ROWS

VENDOR_RULES: tuple[Rule, ...] = vendor_rules(
    AI_ROWS + CODE_ROWS + CLOUD_ROWS + PAYMENT_ROWS + MESSAGE_ROWS + TAIL_ROWS
)
ALL_RULES: tuple[Rule, ...] = VENDOR_RULES + EXACT_RULES + SHAPE_RULES + PROSE_RULES
