"""What every server of fledge shares: host and origin checks, the token, errors."""
