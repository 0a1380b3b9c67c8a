"""Who plays: decision rules, pricing rules, learned policies, and policies from files."""
