"""Alignment: teach a model to answer, and to answer as people or rules prefer (SFT, reward models, DPO, PPO, GRPO)."""
