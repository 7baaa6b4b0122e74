"""The subcommands, one thin module each; whatever is heavy is imported when a command runs."""
