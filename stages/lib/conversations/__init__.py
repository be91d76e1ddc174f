"""Rows of chats, and their gates."""
