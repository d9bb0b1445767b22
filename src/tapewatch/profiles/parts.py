"""The engine as settings, rules and calendar make it: one way for the live pipeline, replays and proofs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tapewatch.calendar import load_calendar
from tapewatch.engine.engine import Engine, engine_params
from tapewatch.errors import SettingsError
from tapewatch.feed.conditions import eligibility
from tapewatch.profiles.alertsfile import read_alerts_file
from tapewatch.profiles.said import Records, first_rules
from tapewatch.records import Tables
from tapewatch.rules.model import Rules
from tapewatch.sessions import Calendar
from tapewatch.settings import Settings, duration_text

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is made of, beside the records."""

    settings: Settings
    rules: Rules
    calendar: Calendar

    @classmethod
    def load(cls, settings: Settings) -> Parts:
        """Read the rules and the trading calendar.

        Raises:
            SettingsError: `alerts.toml` is wrong, or a setting does not fit another.
        """
        if settings.confirm_delay_ms > settings.slide_ms:
            raise SettingsError(
                f"CONFIRM_DELAY={duration_text(settings.confirm_delay_ms)} may not exceed "
                f"SLIDE_DURATION={duration_text(settings.slide_ms)}"
            )
        return cls(settings, read_alerts_file(settings).rules, load_calendar(settings.data_dir))

    def of_log(self, log: Records) -> Parts:
        """The same with the rules that hold at the log's beginning, which an engine that reads it begins with."""
        return replace(self, rules=first_rules(log, self.rules))

    def engine(self, tables: Tables) -> Engine:
        """A new engine that reads ``tables``."""
        s = self.settings
        params = engine_params(
            self.rules,
            window_ms=s.window_ms,
            slide_ms=s.slide_ms,
            watermark_delay_ms=s.watermark_delay_ms,
            confirm_delay_ms=s.confirm_delay_ms,
            future_limit_ms=s.future_limit_ms,
        )
        news_age_ms = s.news_age_ms + s.delay_ms_max
        return Engine(params, self.rules, self.calendar, tables, eligibility, news_age_ms=news_age_ms)
