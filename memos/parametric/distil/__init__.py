"""Distillation: notes -> facts -> examples -> LoRA or cartridge -> gate. Nothing here publishes anything."""
