"""What a flag means. Pure: no input or output, no clock, no asyncio; everything it needs is an argument."""
