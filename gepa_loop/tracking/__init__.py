"""Runs tracked elsewhere: what their files say, sent to a tracker."""
