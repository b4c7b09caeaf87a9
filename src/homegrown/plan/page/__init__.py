"""A plan as one self-contained HTML page with plots."""

from homegrown.plan.page.page import write_plan_page

__all__ = ["write_plan_page"]
